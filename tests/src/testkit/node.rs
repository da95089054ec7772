//! A node of the fleet: a host with its containerd, made the way every test wants it.

use super::containerd::{Containerd, write_default_hosts};
use super::error::{LabError, Result};
use super::host::Host;
use super::lab::Lab;
use super::link::Rate;
use super::programs::{ContainerdPrograms, ContainerdVersion, Programs};
use crate::image::pause;

/// What nodes are made of; looked up once per lab.
#[derive(Debug, Clone)]
pub struct NodeParts {
    containerd: ContainerdPrograms,
    pause: std::path::PathBuf,
}

impl NodeParts {
    /// Finds or fetches containerd of this version and the pause image.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] when this version is not to be had.
    pub async fn get(programs: &Programs, version: ContainerdVersion) -> Result<Self> {
        let programs = programs.clone();
        let get = move || {
            let containerd = programs.containerd(version)?;
            Ok(Self { containerd, pause: pause::archive(&programs)? })
        };
        tokio::task::spawn_blocking(get)
            .await
            .map_err(|failed| LabError::Unexpected(failed.to_string()))?
    }

    /// The version of containerd's package.
    pub fn version(&self) -> &str {
        &self.containerd.version
    }
}

/// A host with a running containerd.
#[derive(Debug)]
pub struct Node {
    /// Its place on the wire.
    pub host: Host,
    /// Its containerd, empty at first.
    pub containerd: Containerd,
}

impl Node {
    /// Joins a host to the lab and starts its containerd. Without an agent it pulls from
    /// `registry` (host:port) in clear text.
    pub async fn start(
        lab: &Lab,
        role: &str,
        rate: Rate,
        parts: &NodeParts,
        registry: &str,
    ) -> Result<Self> {
        let host = lab.host(role, rate)?;
        Self::on(host, parts, registry).await
    }

    /// Starts a containerd with empty state on a host that has none.
    pub async fn on(host: Host, parts: &NodeParts, registry: &str) -> Result<Self> {
        write_default_hosts(&host, registry)?;
        let containerd = Containerd::start(&host, &parts.containerd).await?;
        containerd.import(&parts.pause).await?;
        Ok(Self { host, containerd })
    }
}
