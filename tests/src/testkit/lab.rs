//! A lab: a hub with hosts around it, in network namespaces of its own.
//!
//! Owns the hub, the addresses and the lab's directory. Nothing of it lies in the machine's own
//! network, so any number of labs use the same addresses at the same moment. It ends when it is
//! dropped, by Ctrl-C, or, after a crash, when the next lab starts.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{getpid, getuid, set_child_subreaper};

use super::error::{Context, LabError, Result};
use super::host::Host;
use super::interrupt;
use super::link::{self, Counter, Rate};
use super::name::LabName;
use super::netns::Namespace;
use super::process::tail;
use super::sweep;

/// The first three octets of every lab's network.
const NETWORK: [u8; 3] = [10, 77, 0];
/// Host numbers 1 to 250; the others stay free.
const HOSTS_MAX: u8 = 250;
/// Programs the lab cannot do without, and where they come from.
const TOOLS: [&str; 6] = ["ip", "tc", "nsenter", "unshare", "timeout", "mount"];

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    core: Arc<Core>,
}

/// What the hosts of a lab share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) name: LabName,
    pub(crate) directory: PathBuf,
    pub(crate) hub: Namespace,
    hosts: Mutex<u8>,
}

impl Lab {
    /// Sweeps dead labs and makes an empty one. Needs root.
    pub fn start() -> Result<Self> {
        require_root()?;
        for tool in TOOLS {
            require_tool(tool, "deps")?;
        }
        // TLS is compiled into the HTTP client although the lab speaks clear text.
        let _ = rustls::crypto::ring::default_provider().install_default();
        sweep::sweep_dead();
        set_child_subreaper(Some(getpid())).during(|| "becoming a subreaper".to_owned())?;
        let name = LabName::next();
        interrupt::register(name.clone())?;
        let made = Self::make(&name);
        if made.is_err() {
            sweep::remove(&name);
            interrupt::forget(&name);
        }
        made
    }

    fn make(name: &LabName) -> Result<Self> {
        let directory = name.directory();
        fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
        let hub = Namespace::create(name.namespace("hub"))?;
        link::make_hub(&hub)?;
        let core = Core { name: name.clone(), directory, hub, hosts: Mutex::new(0) };
        Ok(Self { core: Arc::new(core) })
    }

    /// Its name, the first part of everything it leaves in the system.
    pub fn name(&self) -> &LabName {
        &self.core.name
    }

    /// Where its hosts keep their files.
    pub fn directory(&self) -> &Path {
        &self.core.directory
    }

    /// Joins a new host to the hub; the first one is 10.77.0.1, the next 10.77.0.2 and so on.
    pub fn host(&self, role: &str, rate: Rate) -> Result<Host> {
        let number = self.core.next_host()?;
        let [a, b, c] = NETWORK;
        Host::join(Arc::clone(&self.core), role, Ipv4Addr::new(a, b, c, number), rate)
    }

    /// The ends of all logs, for a test that failed.
    pub fn tails(&self) -> String {
        let mut logs = Vec::new();
        collect_logs(&self.core.directory, &mut logs);
        logs.sort();
        let parts = logs.iter().map(|log| {
            let short = log.strip_prefix(&self.core.directory).unwrap_or(log);
            format!("--- {}\n{}", short.display(), tail(log))
        });
        parts.collect::<Vec<_>>().join("\n")
    }
}

impl Core {
    fn next_host(&self) -> Result<u8> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if *hosts == HOSTS_MAX {
            return Err(LabError::Unexpected(format!("a lab has at most {HOSTS_MAX} hosts")));
        }
        *hosts += 1;
        Ok(*hosts)
    }

    /// All links' counters at one moment, by port.
    pub(crate) async fn counters(&self) -> Result<std::collections::BTreeMap<String, Counter>> {
        self.hub.run(async { link::read_counters() }).await?
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        sweep::remove(&self.name);
        interrupt::forget(&self.name);
    }
}

/// The one clear line for whoever is not root.
pub fn require_root() -> Result<()> {
    if getuid().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

/// Looks for a program in `PATH`; `target` is the make target that installs it.
pub fn require_tool(program: &str, target: &'static str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps ip and tc where a shell of root looks, but not every service.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places
        .map(|place| place.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| LabError::MissingProgram { program: program.to_owned(), target })
}

/// Log files at most two levels down; a containerd's root is not searched.
fn collect_logs(directory: &Path, logs: &mut Vec<PathBuf>) {
    let hosts = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = hosts.flat_map(|host| fs::read_dir(host.path()).into_iter().flatten().flatten());
    logs.extend(
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "log")),
    );
}
