//! Every kind of store that the registry runs on, started for one test.
//!
//! A suite that takes a [`Store`] runs on each backend; what a backend cannot do is a method here,
//! so that a suite says what it left out.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::{Context as _, Result};
use super::object_servers::{Kind, ObjectServer, Site};
use super::settings::Settings;

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A local directory.
    Directory,
    /// In the registry's own memory: gone with its process, and not shared between instances.
    Memory,
    /// A real S3 server that ignores conditional writes.
    Garage,
    /// An S3 mock that honours conditional writes.
    Moto,
    /// The Azure emulator.
    Azurite,
    /// The GCS emulator: of Google's XML API, which `object_store` speaks, it has no lists, deletes
    /// or conditions, and no ETag in the answer to a PUT. The registry refuses to start on it.
    GcsEmulator,
}

/// A store that is there until it is dropped.
#[derive(Debug)]
pub struct Store {
    backend: Backend,
    server: Option<ObjectServer>,
    settings: Settings,
    environment: Vec<(String, String)>,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Directory, Self::Memory, Self::Garage, Self::Moto, Self::Azurite, Self::GcsEmulator];

    /// Starts the store; its data lies in the site's directory.
    ///
    /// # Errors
    /// [`super::LabError::Unavailable`] where its program cannot be had on this machine.
    pub async fn start(self, site: &Site) -> Result<Store> {
        let kind = match self {
            Self::Directory | Self::Memory => None,
            Self::Garage => Some(Kind::Garage),
            Self::Moto => Some(Kind::Moto),
            Self::Azurite => Some(Kind::Azurite),
            Self::GcsEmulator => Some(Kind::Gcs),
        };
        let (mut settings, mut environment, mut server) = (Settings::default(), Vec::new(), None);
        match kind {
            None if self == Self::Memory => {
                settings.set("storage.url", "memory:");
            }
            None => {
                let directory = site.directory().join("store");
                settings.set("storage.url", format!("file://{}", directory.display()));
            }
            Some(kind) => {
                let started = ObjectServer::start(site, kind).await?;
                settings
                    .set("storage.url", started.url())
                    .set("storage.endpoint", started.endpoint())
                    .set("storage.allow_http", true);
                environment.extend_from_slice(started.credentials());
                server = Some(started);
            }
        }
        Ok(Store { backend: self, server, settings, environment })
    }

    /// Whether of two Creates of one key the second is refused.
    pub const fn conditional_create(self) -> bool {
        !matches!(self, Self::Garage)
    }

    /// Whether what was written survives the registry's process.
    pub const fn outlives_the_registry(self) -> bool {
        !matches!(self, Self::Memory)
    }
}

impl Store {
    /// What it is.
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// The server behind it, where there is one.
    pub const fn server(&self) -> Option<&ObjectServer> {
        self.server.as_ref()
    }

    /// The registry's settings for it: `storage.*`.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The credentials as a file of mode 0600 in this directory, for `storage.credentials_file`.
    pub fn write_credentials(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join("store-credentials");
        let line = |(key, value): &(String, String)| format!("{key} = {value}\n");
        let lines: String = self.environment.iter().map(line).collect();
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path);
        let mut file = file.during(|| path.display().to_string())?;
        file.write_all(lines.as_bytes()).during(|| path.display().to_string())?;
        Ok(path)
    }

    /// The credentials, as the registry takes them from its environment.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }
}
