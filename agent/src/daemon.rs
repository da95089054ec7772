//! The process `longshore-agent`: command line, log, runtime, signals and exit codes.
//!
//! Owns nothing that serves. It parses, builds, waits and drains.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | asked to stop, and stopped |
//! | 1 | the disk, a socket or hosts.toml can not be used; or something did not end in time |
//! | 64 | the configuration is wrong |
//! | 69 | a port, the store or the control socket is another process's |
//! | 70 | a part of the agent ended before its time |

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Command};
use longshore_settings::{EXIT_CONFIG, load, with_flags};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::agent::{Agent, StartError};
use crate::config::{Config, DEFAULT_FILE, HostsOnly, LogConfig, LogFormat, RawConfig, SETTINGS};
use crate::containerd::remove_ours;
use crate::notify::Notify;
use crate::shutdown::Signals;
use crate::watchdog::Watchdog;

/// With one, any call that blocks would stop everything.
const RUNTIME_WORKERS_MIN: usize = 2;
/// Threads that verify and write pieces; more would only wait for the disk.
const BLOCKING_THREADS_MAX: usize = 64;
/// What still runs in the runtime after the drain is left behind.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);
/// A part of the agent broke (sysexits(3) EX_SOFTWARE).
const EXIT_BROKEN: u8 = 70;
const REMOVE_HOSTS: &str = "remove-hosts";

/// The whole program.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match crate::arguments::parse(command().try_get_matches_from(arguments)) {
        Ok(matches) => matches,
        Err(code) => return code,
    };
    match matches.subcommand() {
        Some((REMOVE_HOSTS, matches)) => remove_hosts(matches),
        _ => run(&matches),
    }
}

fn command() -> Command {
    let remove = Command::new(REMOVE_HOSTS)
        .about("Remove every hosts.toml that an agent wrote: what the unit does after the agent");
    let command = Command::new("longshore-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("containerd's mirror on this node; without a subcommand it runs")
        .subcommand(with_flags(remove, SETTINGS));
    with_flags(command, SETTINGS)
}

/// `ExecStopPost=`: works whatever else is wrong with the configuration.
fn remove_hosts(matches: &ArgMatches) -> ExitCode {
    let default_file = Path::new(DEFAULT_FILE);
    let loaded = load::<HostsOnly>(matches, SETTINGS, default_file, |name| std::env::var_os(name));
    let (hosts, configured) = match loaded {
        Ok(hosts) => (hosts, ExitCode::SUCCESS),
        Err(error) => {
            complain(&format!("{error}; removing from the default directory"));
            (HostsOnly::default(), ExitCode::from(EXIT_CONFIG))
        }
    };
    match remove_ours(hosts.directory()) {
        Ok(_) => configured,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> ExitCode {
    let default_file = Path::new(DEFAULT_FILE);
    let loaded = load::<RawConfig>(matches, SETTINGS, default_file, |name| std::env::var_os(name));
    let config = match loaded.and_then(Config::try_from) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    start_log(&config.log);
    match run_with(config) {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_with(config: Config) -> Result<ExitCode, StartError> {
    let notify = Notify::from_environment(|name| std::env::var_os(name));
    let notify = Arc::new(notify.map_err(StartError::Runtime)?);
    let runtime = runtime().map_err(StartError::Runtime)?;
    let watchdog = Watchdog::start(config.watchdog_timeout).map_err(StartError::Runtime)?;
    let ended = runtime.block_on(serve(config, notify, &watchdog));
    // Nothing beats from here on.
    drop(watchdog);
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

async fn serve(
    config: Config,
    notify: Arc<Notify>,
    watchdog: &Watchdog,
) -> Result<ExitCode, StartError> {
    let mut signals = Signals::listen().map_err(StartError::Runtime)?;
    let hosts_dir = config.containerd.hosts_dir.clone();
    let agent = tokio::select! {
        started = Agent::start(config, notify, Some(watchdog)) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before the start was complete");
            remove_ours(&hosts_dir)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let code = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            ExitCode::SUCCESS
        }
        () = agent.failed() => {
            tracing::error!("stopping, because a part of the agent ended before its time");
            ExitCode::from(EXIT_BROKEN)
        }
    };
    tokio::select! {
        whole = agent.stop() => Ok(if whole { code } else { ExitCode::FAILURE }),
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn runtime() -> std::io::Result<Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.max(RUNTIME_WORKERS_MIN))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("longshore")
        .enable_all()
        .build()
}

fn start_log(config: &LogConfig) {
    let filter = EnvFilter::new(&config.filter);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Only an in-process test has one already.
    let _set = match config.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// One line on standard error, whatever the log's filter says.
fn complain(line: &str) {
    let _closed = writeln!(std::io::stderr(), "longshore-agent: {line}");
}
