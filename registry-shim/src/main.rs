//! `longshore-registry [serve]` and `longshore-registry keys show`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};
use longshore_registry::config::{Config, DEFAULT_FILE, LogFormat, settings};
use longshore_registry::notify::Notify;
use longshore_registry::{Instance, StartError, shutdown};
use longshore_settings::EXIT_CONFIG;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// `EX_UNAVAILABLE` of sysexits(3).
const EXIT_PORT: u8 = 69;

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let outcome = match matches.subcommand() {
        Some(("keys", keys)) => match keys.subcommand() {
            Some(("show", show)) => load(show).and_then(|config| keys_show(&config)),
            _ => unreachable!("clap asks for a subcommand"),
        },
        Some(("serve", serve_matches)) => load(serve_matches).and_then(|config| serve(&config)),
        _ => load(&matches).and_then(|config| serve(&config)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Help goes to stdout; a wrong flag is wrong configuration, in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _nobody_reads = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    complain(&format!("config: {}", line.strip_prefix("error: ").unwrap_or(line)));
    ExitCode::from(EXIT_CONFIG)
}

struct Failure {
    code: u8,
    message: String,
}

fn command() -> Command {
    let with_flags = |command| longshore_settings::with_flags(command, settings());
    let serve = with_flags(Command::new("serve").about("Serve the registry (the default)"));
    let show = Command::new("show").about("Print KID:BASE64 of the public keys that sign");
    let keys = Command::new("keys")
        .about("The origin's keys")
        .subcommand_required(true)
        .subcommand(with_flags(show));
    with_flags(Command::new("longshore-registry"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("An OCI registry on object storage, and the origin of a Longshore fleet")
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(keys)
}

fn load(matches: &ArgMatches) -> Result<Config, Failure> {
    let environment = |name: &str| std::env::var_os(name);
    longshore_settings::load(matches, settings(), Path::new(DEFAULT_FILE), environment)
        .map_err(|error| Failure { code: EXIT_CONFIG, message: error.to_string() })
}

#[allow(clippy::print_stdout, reason = "the keys are this command's output")]
fn keys_show(config: &Config) -> Result<(), Failure> {
    let key = longshore_registry::load_key(config, false).map_err(failure)?;
    println!("{}", key.public());
    Ok(())
}

fn serve(config: &Config) -> Result<(), Failure> {
    start_log(config);
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nobody installed another provider before");
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure { code: 1, message: format!("cannot start threads: {error}") })?;
    runtime.block_on(async {
        let instance = Instance::start(config).await.map_err(failure)?;
        tracing::info!(
            address = %instance.address(),
            admin = %instance.admin_address(),
            key = %instance.public_key(),
            "serving"
        );
        let (token, manager) = (CancellationToken::new(), Notify::from_environment());
        manager.ready();
        let told = async {
            token.cancelled().await;
            manager.stopping();
        };
        let run = async {
            instance.run(token.clone()).await;
            token.cancel();
        };
        let (signalled, (), ()) = tokio::join!(shutdown::on_signal(token.clone()), run, told);
        signalled.map_err(|error| Failure { code: 1, message: format!("signals: {error}") })
    })
}

fn start_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people: in a file or a journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn failure(error: StartError) -> Failure {
    let code = match &error {
        StartError::Config { .. } => EXIT_CONFIG,
        StartError::Listen { .. } => EXIT_PORT,
        StartError::Storage(_) => 1,
    };
    Failure { code, message: error.to_string() }
}

#[allow(clippy::print_stderr, reason = "the one line that says why nothing runs")]
fn complain(message: &str) {
    eprintln!("longshore-registry: {message}");
}
