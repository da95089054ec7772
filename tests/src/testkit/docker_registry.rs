//! Debian's docker-registry: what users would run instead of ours, for comparison.

use std::fs;
use std::time::Duration;

use super::error::{Context, LabError, Result};
use super::host::Host;
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
