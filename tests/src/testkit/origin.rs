//! A `longshore-registry` process on the machine's loopback, over any store.
//!
//! It listens on ports that the kernel chose and says which in its log: nothing is guessed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::backend::Store;
use super::error::{Context, LabError, Result};
use super::host::client;
use super::loopback::Loopback;
use super::metrics::Metrics;
use super::process::Process;
use super::programs::own_binary;
use super::settings::{CommandLine, Settings};
use super::wait::{Seen, until, within};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(30);
/// For a subcommand, on a busy machine.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// The log line that names both ports.
const SERVING: &str = "serving";

/// A running registry.
#[derive(Debug)]
pub struct Origin {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    key: String,
}

impl Origin {
    /// Starts one instance over `store` and waits until it is ready.
    pub async fn start(loopback: &Loopback, store: &Store) -> Result<Self> {
        Self::start_with(loopback, store, "registry", &Settings::default()).await
    }

    /// As [`Origin::start`], with settings over the usual ones. `name` is its log's; instances
    /// that share a loopback share the signing key.
    pub async fn start_with(
        loopback: &Loopback,
        store: &Store,
        name: &str,
        settings: &Settings,
    ) -> Result<Self> {
        Self::start_from(loopback, store, name, settings, "").await
    }

    /// As [`Origin::start_with`], with a configuration file: for lists of tables.
    pub async fn start_from(
        loopback: &Loopback,
        store: &Store,
        name: &str,
        settings: &Settings,
        file: &str,
    ) -> Result<Self> {
        // An earlier instance of this name wrote into the same log.
        let log = loopback.directory().join(format!("{name}.log"));
        let before = fs::metadata(log).map_or(0, |log| log.len());
        let process = Self::spawn(loopback, store, name, settings, file)?;
        let (address, admin, key) = until("the registry's ports", READY_DEADLINE, async || {
            process.check_alive()?;
            Ok(match serving(&process, before) {
                Some(found) => Seen::Yes(found),
                None => Seen::NotYet(process.tail()),
            })
        })
        .await?;
        let origin = Self { process, address, admin, key };
        let ready = format!("http://{admin}/readyz");
        until("the registry's readiness", READY_DEADLINE, async || {
            origin.process.check_alive()?;
            Ok(match get(&ready).await {
                Ok((200, _)) => Seen::Yes(()),
                Ok((status, body)) => Seen::NotYet(format!("{status} {body}")),
                Err(failed) => Seen::NotYet(failed.to_string()),
            })
        })
        .await?;
        Ok(origin)
    }

    /// Starts the process and waits for nothing: for a start that should fail.
    pub fn spawn(
        loopback: &Loopback,
        store: &Store,
        name: &str,
        settings: &Settings,
        file: &str,
    ) -> Result<Process> {
        Self::spawn_command(loopback, store, name, settings, file, &["serve"])
    }

    /// As [`Origin::spawn`] for any subcommand: what it prints is in its log.
    pub fn spawn_command(
        loopback: &Loopback,
        store: &Store,
        name: &str,
        settings: &Settings,
        file: &str,
        arguments: &[&str],
    ) -> Result<Process> {
        let (line, envs) = command_line(loopback, store, name, settings, file, arguments)?;
        loopback.start_program(name, line, envs)
    }

    /// Runs a subcommand to its end: what it printed for machines.
    ///
    /// # Errors
    /// When it does not succeed, with what it said; when it printed no JSON.
    pub async fn ask(
        loopback: &Loopback,
        store: &Store,
        settings: &Settings,
        file: &str,
        arguments: &[&str],
    ) -> Result<serde_json::Value> {
        let (line, envs) = command_line(loopback, store, "command", settings, file, arguments)?;
        let what = || arguments.join(" ");
        let mut command = tokio::process::Command::new(&line[0]);
        command.args(&line[1..]).envs(loopback.environment().iter().cloned()).envs(envs);
        let ended = command.kill_on_drop(true).stdin(std::process::Stdio::null()).output();
        let output = within(&what(), COMMAND_DEADLINE, ended).await?.during(what)?;
        let (said, erred) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        if !output.status.success() {
            return Err(LabError::Unexpected(format!("{}: {}: {erred}", what(), output.status)));
        }
        serde_json::from_slice(&said)
            .map_err(|error| LabError::Unexpected(format!("{}: {error}: {erred}", what())))
    }

    /// Where OCI and gRPC are served.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where metrics and health are served.
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What an agent takes as `origin.signing_keys`.
    pub fn signing_key(&self) -> &str {
        &self.key
    }

    /// Its process.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<Metrics> {
        let url = format!("http://{}/metrics", self.admin);
        let (status, body) = get(&url).await?;
        if status != 200 {
            return Err(LabError::Unexpected(format!("{url}: status {status}: {body}")));
        }
        Metrics::parse(&body)
    }

    /// Ends it as systemd would.
    pub async fn stop(self) -> Result<ExitStatus> {
        self.process.stop(STOP_GRACE).await
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(self) -> Result<ExitStatus> {
        self.process.kill().await
    }
}

/// The program with a subcommand over `store`; every setting is in the environment.
fn command_line(
    loopback: &Loopback,
    store: &Store,
    name: &str,
    settings: &Settings,
    file: &str,
    arguments: &[&str],
) -> Result<CommandLine> {
    let configuration = loopback.directory().join(format!("{name}.toml"));
    fs::write(&configuration, file).during(|| configuration.display().to_string())?;
    let key = signing_key(loopback, store)?;
    let mut all = settings.clone();
    all.or_set("serve.listen", "127.0.0.1:0")
        .or_set("admin.listen", "127.0.0.1:0")
        .or_set("log.format", "text")
        .or_set("identity.signing_key_file", key.display())
        .log_filter();
    for (key, value) in store.settings().values() {
        all.or_set(key, value);
    }
    let mut line = vec![own_binary("longshore-registry")?.display().to_string()];
    line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    line.extend(["--config".to_owned(), configuration.display().to_string()]);
    let mut environment = all.environment();
    environment.extend_from_slice(store.environment());
    Ok((line, environment))
}

/// The key's file. On a cloud store a missing one is an error, so a local instance makes it first.
fn signing_key(loopback: &Loopback, store: &Store) -> Result<PathBuf> {
    let key = loopback.directory().join("keys/signing.pem");
    if !key.exists() && store.server().is_some() {
        make_key(&key)?;
    }
    Ok(key)
}

/// Makes a signing key: on a store that others share no instance makes it itself.
pub fn make_key(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let (_, pem) = longshore_proto::sign::SigningKey::generate();
    let directory = path.parent().unwrap_or(path);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory).during(|| path.display().to_string())?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.during(|| path.display().to_string())?;
    std::io::Write::write_all(&mut file, pem.as_bytes()).during(|| path.display().to_string())
}

/// Both ports and the key, from the line that names them behind the log's first `before` bytes.
fn serving(process: &Process, before: u64) -> Option<(SocketAddr, SocketAddr, String)> {
    let log = fs::read_to_string(process.log()).ok()?;
    let line = log
        .get(usize::try_from(before).ok()?..)?
        .lines()
        .rfind(|line| line.contains(SERVING) && line.contains("admin="))?;
    let field = |name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    Some((field("address")?.parse().ok()?, field("admin")?.parse().ok()?, field("key")?.to_owned()))
}

async fn get(url: &str) -> Result<(u16, String)> {
    let failed = |source| LabError::Http { what: format!("GET {url}"), source };
    let response = client().map_err(failed)?.get(url).timeout(Duration::from_secs(15)).send().await;
    let response = response.map_err(failed)?;
    let status = response.status().as_u16();
    Ok((status, response.text().await.map_err(failed)?))
}
