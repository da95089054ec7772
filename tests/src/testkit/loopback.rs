//! Programs on the machine's own loopback, without a network of their own and without root.
//!
//! Owns a directory and what was started in it; both go when the last clone is dropped, on Ctrl-C,
//! or, after a crash, when the next lab or loopback starts. It must never use a fixed port.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Context, Result};
use super::interrupt;
use super::name::LabName;
use super::process::{Process, Spec, tail};
use super::sweep;

/// A directory and the programs that were started in it.
#[derive(Debug, Clone)]
pub struct Loopback {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: LabName,
    directory: PathBuf,
    environment: Vec<(String, String)>,
}

impl Loopback {
    /// Sweeps what dead owners left and makes an empty directory.
    pub fn start() -> Result<Self> {
        Self::start_with(|_| Ok(Vec::new()))
    }

    /// As [`Loopback::start`]; every program there has what `environment` says of the directory.
    pub fn start_with(
        environment: impl FnOnce(&Path) -> Result<Vec<(String, String)>>,
    ) -> Result<Self> {
        // TLS is compiled into the HTTP client although the servers speak clear text.
        let _ = rustls::crypto::ring::default_provider().install_default();
        sweep::sweep_dead();
        let name = LabName::next();
        let directory = name.directory();
        interrupt::register(name.clone())?;
        fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
        let environment = environment(&directory)?;
        Ok(Self { inner: Arc::new(Inner { name, directory, environment }) })
    }

    /// What every program there has in its environment.
    pub fn environment(&self) -> &[(String, String)] {
        &self.inner.environment
    }

    /// Where its programs keep their files.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Starts a long-lived program; its log is `<name>.log`.
    pub fn start_program<S: Into<String>>(
        &self,
        name: &str,
        line: impl IntoIterator<Item = S>,
        mut envs: Vec<(String, String)>,
    ) -> Result<Process> {
        envs.extend_from_slice(&self.inner.environment);
        Process::start(Spec {
            name: name.to_owned(),
            line: line.into_iter().map(Into::into).collect(),
            envs,
            log: self.inner.directory.join(format!("{name}.log")),
            ledger: self.inner.directory.join(sweep::PROCESSES),
        })
    }

    /// The ends of all logs, for a test that failed.
    pub fn tails(&self) -> String {
        let entries = fs::read_dir(&self.inner.directory).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        let parts = logs.iter().map(|log| format!("--- {}\n{}", log.display(), tail(log)));
        parts.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        sweep::remove(&self.name);
        interrupt::forget(&self.name);
    }
}

/// A port of 127.0.0.1 that was free a moment ago. Whoever uses it tries another one when the
/// program finds it taken.
pub(crate) fn free_port() -> Result<u16> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = TcpListener::bind(any).and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).during(|| "a free port of 127.0.0.1".to_owned())
}
