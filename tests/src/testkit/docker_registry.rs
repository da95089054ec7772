//! Debian's docker-registry: what users would run instead of ours, for comparison.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::net::TcpStream;

use super::cache::Cache;
use super::error::{Context, LabError, Result};
use super::host::Host;
use super::loopback::{Loopback, free_port};
use super::process::Process;
use super::programs::Programs;
use super::registry::REGISTRY_PORT;
use super::wait::{Seen, until};

const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A running docker-registry on a directory of its host.
#[derive(Debug)]
pub struct DockerRegistry {
    host: Host,
    process: Process,
}

impl DockerRegistry {
    /// Starts it and waits until it answers.
    pub async fn start(host: &Host, programs: &Programs) -> Result<Self> {
        let programs = programs.clone();
        let found = tokio::task::spawn_blocking(move || programs.docker_registry()).await;
        let binary = found.map_err(|failed| LabError::Unexpected(failed.to_string()))??;
        let configuration = host.directory().join("docker-registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"0.0.0.0:{REGISTRY_PORT}\"}}\n",
            host.directory().join("docker-registry").display()
        );
        fs::write(&configuration, text).during(|| configuration.display().to_string())?;
        let (binary, configuration) = (binary.display(), configuration.display());
        let line = [binary.to_string(), "serve".to_owned(), configuration.to_string()];
        let process = host.start("docker-registry", line, Vec::new())?;
        let url = format!("http://127.0.0.1:{REGISTRY_PORT}/v2/");
        until("docker-registry's answer", READY_DEADLINE, async || {
            process.check_alive()?;
            Ok(match host.get(&url).await {
                Ok((200, _)) => Seen::Yes(()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await?;
        Ok(Self { host: host.clone(), process })
    }

    /// `host:port` as it stands in image names.
    pub fn authority(&self) -> String {
        format!("{}:{REGISTRY_PORT}", self.host.address())
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// How one on the loopback is guarded; by default it is open to everybody.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// The content of its htpasswd file: bcrypt alone counts.
    pub htpasswd: Option<String>,
    /// Its certificate chain and its key, PEM.
    pub tls: Option<(String, String)>,
}

/// One on the machine's own loopback, on a directory of it.
#[derive(Debug)]
pub struct LocalDockerRegistry {
    process: Process,
    address: SocketAddr,
    scheme: &'static str,
}

impl LocalDockerRegistry {
    /// Starts it on a free port and waits until it listens.
    pub async fn start(loopback: &Loopback, guard: &Guard) -> Result<Self> {
        let binary =
            tokio::task::spawn_blocking(|| Programs::new(Cache::open()?).docker_registry());
        let binary = binary.await.map_err(|lost| LabError::Unexpected(lost.to_string()))??;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let directory = loopback.directory();
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).during(|| path.display().to_string())?;
            Ok::<_, LabError>(path.display().to_string())
        };
        let mut text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: \"{address}\"\n",
            directory.join("docker-registry").display()
        );
        if let Some((certificate, key)) = &guard.tls {
            let certificate = write("docker-registry.crt", certificate)?;
            let key = write("docker-registry.key", key)?;
            text += &format!("  tls: {{certificate: {certificate}, key: {key}}}\n");
        }
        if let Some(users) = &guard.htpasswd {
            let users = write("docker-registry.htpasswd", users)?;
            text += &format!("auth: {{htpasswd: {{realm: lab, path: {users}}}}}\n");
        }
        let configuration = write("docker-registry.yml", &text)?;
        let line = [binary.display().to_string(), "serve".to_owned(), configuration];
        let environment = vec![("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned())];
        let process = loopback.start_program("docker-registry", line, environment)?;
        until("docker-registry's port", READY_DEADLINE, async || {
            process.check_alive()?;
            Ok(match TcpStream::connect(address).await {
                Ok(_) => Seen::Yes(()),
                Err(refused) => Seen::NotYet(refused.to_string()),
            })
        })
        .await?;
        let scheme = if guard.tls.is_some() { "https" } else { "http" };
        Ok(Self { process, address, scheme })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Its process.
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// SIGKILL: an outage.
    pub async fn kill(self) -> Result<ExitStatus> {
        self.process.kill().await
    }
}
