//! A `longshore-agent` of the lab, run as its unit would run it.
//!
//! Readiness comes over NOTIFY_SOCKET. Whatever ends the agent, `remove-hosts` runs afterwards, as
//! `ExecStopPost=` does. Nothing starts it again: a test that wants `Restart=` starts a new one on
//! the same host, which finds the store of the one before.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::Instant;

use super::command::Run;
use super::containerd::hosts_dir;
use super::error::{LabError, Result};
use super::host::Host;
use super::metrics::Metrics;
use super::notify::NotifySocket;
use super::process::Process;
use super::programs::own_binary;
use super::registry::Registry;
use super::settings::{CommandLine, Settings, empty_file};
use super::wait::within;

/// Where containerd finds the mirror.
pub const MIRROR: &str = "127.0.0.1:777";
const ADMIN: &str = "127.0.0.1:7771";
/// The swarm's port on every node.
pub const SWARM_PORT: u16 = 7770;
const READY_DEADLINE: Duration = Duration::from_secs(30);
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Which build of the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentBuild {
    /// What is shipped.
    #[default]
    Product,
    /// With the hooks that let a test wedge it or make it a bad peer.
    Hooked,
}

impl AgentBuild {
    /// The binary of this build.
    pub fn binary(self) -> Result<PathBuf> {
        own_binary(match self {
            Self::Product => "longshore-agent",
            Self::Hooked => "longshore-agent-hooked",
        })
    }
}

/// How an agent of the lab is started.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Its build.
    pub build: AgentBuild,
    /// Settings on top of the lab's.
    pub settings: Settings,
    /// Environment variables that are no settings: the hooks'.
    pub environment: Vec<(String, String)>,
}

impl AgentOptions {
    /// The product, joined to this registry.
    pub fn joined(registry: &Registry) -> Self {
        Self::at(&registry.url(), registry.signing_keys())
    }

    /// The product, joined to an origin at this URL, which may lead through a proxy.
    pub fn at(origin: &str, signing_keys: &str) -> Self {
        let mut options = Self::default();
        options.settings.set("origin.url", origin).set("origin.signing_keys", signing_keys);
        options
    }

    /// The build with hooks.
    pub fn hooked(mut self) -> Self {
        self.build = AgentBuild::Hooked;
        self
    }

    /// Adds a setting.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.set(key, value);
        self
    }

    /// Adds a hook's variable.
    pub fn hook(mut self, variable: &str) -> Self {
        self.environment.push((variable.to_owned(), "1".to_owned()));
        self
    }
}

/// How an agent ended.
#[derive(Debug, Clone, Copy)]
pub struct AgentEnd {
    /// Its exit status.
    pub status: ExitStatus,
    /// When it was gone.
    pub at: Instant,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    pid: u32,
    log: PathBuf,
    commands: tokio::sync::mpsc::UnboundedSender<Signal>,
    end: watch::Receiver<Option<AgentEnd>>,
}

impl Agent {
    /// Starts it and waits until it says that it is ready.
    pub async fn start(host: &Host, options: &AgentOptions) -> Result<Self> {
        let notify = NotifySocket::bind(host.directory().join("agent.notify"))?;
        let (line, mut environment) = command(host, options)?;
        let remover = remove_hosts(host, options)?;
        environment.push(("NOTIFY_SOCKET".to_owned(), notify.path().display().to_string()));
        let process = host.start("agent", line, environment)?;
        let (pid, log) = (process.pid(), process.log().to_owned());
        let (commands, signals) = tokio::sync::mpsc::unbounded_channel();
        let (ended, end) = watch::channel(None);
        tokio::spawn(supervise(process, signals, remover, ended));
        let agent = Self { host: host.clone(), pid, log, commands, end };
        tokio::select! {
            ready = notify.ready(READY_DEADLINE) => match ready {
                Ok(()) => Ok(agent),
                Err(LabError::Deadline { what, deadline, .. }) => {
                    Err(LabError::Deadline { what, deadline, detail: format!("\n{}", agent.tail()) })
                }
                Err(failed) => Err(failed),
            },
            end = agent.ended(READY_DEADLINE * 2) => Err(LabError::Died {
                process: format!("{}/agent", host.role()),
                status: end?.status.to_string(),
                tail: agent.tail(),
            }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        super::process::tail(&self.log)
    }

    /// The file with its log.
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<Metrics> {
        self.host.metrics(&format!("http://{ADMIN}/metrics")).await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // The supervisor is gone only when the agent is.
        let _ = self.commands.send(signal);
    }

    /// Waits until it is gone and its hosts.toml was taken away.
    pub async fn ended(&self, deadline: Duration) -> Result<AgentEnd> {
        let mut end = self.end.clone();
        let waited = within("the agent's end", deadline, end.wait_for(Option::is_some)).await;
        let end = waited?.ok().and_then(|end| *end);
        end.ok_or_else(|| LabError::Unexpected("the agent's end was lost".to_owned()))
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill(&self) -> Result<AgentEnd> {
        self.signal(Signal::KILL);
        self.ended(STOP_GRACE).await
    }

    /// SIGTERM; an error when it does not end in time.
    pub async fn stop(&self) -> Result<AgentEnd> {
        self.signal(Signal::TERM);
        self.ended(STOP_GRACE).await
    }

    /// The CLI's JSON answer, for example to `["explain", IMAGE, "--json"]`.
    pub async fn cli(&self, args: &[&str]) -> Result<serde_json::Value> {
        let socket = control_socket(&self.host);
        let run =
            self.host.command(own_binary("longshore")?).arg("--socket").arg(socket).args(args);
        let printed = run.run_async().await?;
        serde_json::from_str(&printed).map_err(|failed| {
            LabError::Unexpected(format!("longshore {}: {failed}: {printed}", args.join(" ")))
        })
    }
}

/// Passes signals on and tells the end, once hosts.toml is gone too.
async fn supervise(
    process: Process,
    mut signals: tokio::sync::mpsc::UnboundedReceiver<Signal>,
    remover: Run,
    ended: watch::Sender<Option<AgentEnd>>,
) {
    /// No agent outlives its test by this.
    const FOREVER: Duration = Duration::from_secs(24 * 3600);
    let status = loop {
        tokio::select! {
            status = process.wait(FOREVER) => break status,
            signal = signals.recv() => match signal {
                Some(signal) => {
                    let _ = process.signal(signal);
                }
                // Dropped: the process is killed with its owner, this task.
                None => return,
            },
        }
    };
    let at = Instant::now();
    if let Err(failed) = remover.run_async().await {
        tracing::warn!(%failed, "hosts.toml may stay");
    }
    let _ = ended.send(Some(AgentEnd { status: status.unwrap_or_default(), at }));
}

/// The command line and the environment that start an agent on this host.
pub fn command(host: &Host, options: &AgentOptions) -> Result<CommandLine> {
    let binary = options.build.binary()?.display().to_string();
    let configuration = empty_file(host, "agent.toml")?.display().to_string();
    let environment = with_defaults(host, options).environment();
    let environment = environment.into_iter().chain(options.environment.iter().cloned());
    Ok((vec![binary, "--config".to_owned(), configuration], environment.collect()))
}

/// What `ExecStopPost=` runs.
fn remove_hosts(host: &Host, options: &AgentOptions) -> Result<Run> {
    let (line, environment) = command(host, options)?;
    let (binary, args) = (&line[0], &line[1..]);
    let run = host.command(binary).arg("remove-hosts").args(args);
    Ok(environment.into_iter().fold(run, |run, (key, value)| run.env(key, value)))
}

/// Where the agent of this host keeps its pieces.
pub fn store_path(host: &Host) -> PathBuf {
    host.directory().join("store")
}

/// The operators' socket of the agent of this host.
pub fn control_socket(host: &Host) -> PathBuf {
    host.directory().join("agent.sock")
}

fn with_defaults(host: &Host, options: &AgentOptions) -> Settings {
    let mut settings = options.settings.clone();
    settings
        .or_set("node.name", host.role())
        .or_set("mirror.listen", MIRROR)
        .or_set("containerd.hosts_dir", hosts_dir(host).display())
        .or_set("swarm.listen", format!("0.0.0.0:{SWARM_PORT}"))
        .or_set("store.path", store_path(host).display())
        .or_set("admin.listen", ADMIN)
        .or_set("control.socket", control_socket(host).display())
        .log_filter();
    settings
}
