//! A `longshore-registry` of the lab, the origin of its agents.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::error::{Context as _, LabError, Result};
use super::host::Host;
use super::metrics::Metrics;
use super::process::Process;
use super::programs::own_binary;
use super::settings::{CommandLine, Settings, empty_file};
use super::wait::{Seen, until};

/// The port that OCI and gRPC share.
pub const REGISTRY_PORT: u16 = 5000;
const ADMIN: &str = "127.0.0.1:5001";
const READY_DEADLINE: Duration = Duration::from_secs(30);
const STOP_GRACE: Duration = Duration::from_secs(15);

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    host: Host,
    process: Process,
    signing_keys: String,
}

impl Registry {
    /// Starts it on a directory of the host and waits until it is ready.
    pub async fn start(host: &Host) -> Result<Self> {
        Self::start_with(host, &Settings::default()).await
    }

    /// As [`Registry::start`], with settings of the caller's over the lab's.
    pub async fn start_with(host: &Host, settings: &Settings) -> Result<Self> {
        Self::start_from(host, settings, "").await
    }

    /// As [`Registry::start_with`], with a configuration file: for lists of tables.
    pub async fn start_from(host: &Host, settings: &Settings, file: &str) -> Result<Self> {
        let (line, environment) = command_from(host, settings, file)?;
        let process = host.start("registry", line, environment)?;
        let ready = format!("http://{ADMIN}/readyz");
        until("the registry's readiness", READY_DEADLINE, async || {
            process.check_alive()?;
            Ok(match host.get(&ready).await {
                Ok((200, _)) => Seen::Yes(()),
                Ok((status, body)) => Seen::NotYet(format!("{status} {body}")),
                Err(failed) => Seen::NotYet(failed.to_string()),
            })
        })
        .await?;
        let signing_keys = signing_keys(host, settings).await?;
        Ok(Self { host: host.clone(), process, signing_keys })
    }

    /// `host:port` as it stands in image names.
    pub fn authority(&self) -> String {
        format!("{}:{REGISTRY_PORT}", self.host.address())
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority())
    }

    /// What an agent takes as `origin.signing_keys`.
    pub fn signing_keys(&self) -> &str {
        &self.signing_keys
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<Metrics> {
        self.host.metrics(&format!("http://{ADMIN}/metrics")).await
    }

    /// Ends it as systemd would.
    pub async fn stop(self) -> Result<ExitStatus> {
        self.process.stop(STOP_GRACE).await
    }

    /// SIGKILL.
    pub async fn kill(self) -> Result<ExitStatus> {
        self.process.kill().await
    }
}

/// The command line and the environment that start a registry on this host.
pub fn command(host: &Host, settings: &Settings) -> Result<CommandLine> {
    command_from(host, settings, "")
}

fn command_from(host: &Host, settings: &Settings, file: &str) -> Result<CommandLine> {
    let (binary, configuration) =
        (own_binary("longshore-registry")?, empty_file(host, "registry.toml")?);
    std::fs::write(&configuration, file).during(|| text(configuration.clone()))?;
    let line = [text(binary), "serve".to_owned(), "--config".to_owned(), text(configuration)];
    Ok((line.to_vec(), with_defaults(host, settings).environment()))
}

fn with_defaults(host: &Host, settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    let directory = host.directory();
    settings
        .or_set("serve.listen", format!("0.0.0.0:{REGISTRY_PORT}"))
        .or_set("admin.listen", ADMIN)
        .or_set("storage.url", format!("file://{}", directory.join("registry").display()))
        .or_set("identity.signing_key_file", directory.join("keys/signing.pem").display())
        .log_filter();
    settings
}

async fn signing_keys(host: &Host, settings: &Settings) -> Result<String> {
    let binary = own_binary("longshore-registry")?;
    let configuration = empty_file(host, "keys.toml")?;
    let mut run = host.command(binary).args(["keys", "show", "--config"]).arg(configuration);
    for (key, value) in with_defaults(host, settings).environment() {
        run = run.env(key, value);
    }
    let printed = run.run_async().await?;
    let keys: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if keys.is_empty() {
        return Err(LabError::Unexpected("`keys show` printed no key".to_owned()));
    }
    Ok(keys.join(","))
}

fn text(path: PathBuf) -> String {
    path.display().to_string()
}
