//! hosts.toml: how containerd learns of the mirror, per registry, without a restart.
//!
//! Owns the files whose first line is [`MARKER`]; a file without it is somebody else's and is
//! neither overwritten nor removed nor shadowed. A registry's directory appears and disappears
//! whole, because containerd takes the first directory that exists even when it is empty. Blocks
//! on the disk.
//!
//! Of containerd's two spellings the first that wins is written (`host_port_`, then `host:port`):
//! one file, so that there is one moment at which the mirror comes and one at which it goes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::{MirrorSecret, Mirrored, Namespace};

/// First line of every file that an agent wrote.
const MARKER: &str = "# Written by longshore-agent, which removes it when it stops. Do not edit.";
const FILE: &str = "hosts.toml";
/// Where directories are made ready and taken apart; no registry's name begins with a dot.
const STAGING: &str = ".longshore";

/// The mirror, as containerd shall reach it.
#[derive(Clone, Debug)]
pub struct MirrorHost {
    /// Where the mirror listens; an unspecified address stands for loopback.
    pub address: SocketAddr,
    /// What it asks of clients; none when it is open.
    pub secret: Option<MirrorSecret>,
    /// Where containerd goes when the mirror does not serve.
    pub origin: Url,
}

/// The files of one agent.
#[derive(Clone, Debug)]
pub struct Hosts {
    directory: PathBuf,
    registries: Vec<Mirrored>,
}

/// Why hosts.toml can not be written: one line with the key.
#[derive(Debug, thiserror::Error)]
#[error("containerd.hosts_dir: {path}: {source}")]
pub struct HostsError {
    /// What could not be changed.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// What became of each registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenHosts {
    /// Their pulls go through the mirror.
    pub written: Vec<Namespace>,
    /// Left alone: somebody else's hosts.toml is there.
    pub foreign: Vec<(Namespace, PathBuf)>,
}

impl Hosts {
    /// Files below `directory` for these registries.
    pub const fn new(directory: PathBuf, registries: Vec<Mirrored>) -> Self {
        Self { directory, registries }
    }

    /// Points containerd at the mirror. Call it only once the mirror answers.
    pub fn write(&self, mirror: &MirrorHost) -> Result<WrittenHosts, HostsError> {
        let mut outcome = WrittenHosts::default();
        for registry in &self.registries {
            let name = registry.name();
            if let Some(path) = self.foreign(name)? {
                outcome.foreign.push((name.clone(), path));
                continue;
            }
            let home = self.directory.join(&name.directories()[0]);
            let text = text(registry, mirror);
            place(&self.directory, &home, &text).map_err(|source| at(&home, source))?;
            outcome.written.push(name.clone());
        }
        Ok(outcome)
    }

    /// A hosts.toml of somebody else in any directory that containerd would take for `registry`.
    fn foreign(&self, registry: &Namespace) -> Result<Option<PathBuf>, HostsError> {
        for directory in registry.directories() {
            let path = self.directory.join(directory).join(FILE);
            match is_ours(&path) {
                Ok(false) => return Ok(Some(path)),
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(at(&path, source)),
            }
        }
        Ok(None)
    }
}

/// Removes every file below `directory` that an agent wrote, whichever its registry; says how many.
/// One failure does not keep it from the others; the first is returned.
pub fn remove_ours(directory: &Path) -> Result<usize, HostsError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(at(directory, source)),
    };
    let (mut removed, mut failure) = (0, None);
    for home in entries.flatten().map(|entry| entry.path()) {
        if is_staging(&home) {
            // Left by an agent that was killed in between; it is nobody's any more.
            let _gone_or_next_time = fs::remove_dir_all(&home);
            continue;
        }
        // Anything else is somebody else's, or no directory with such a file.
        if matches!(is_ours(&home.join(FILE)), Ok(true)) {
            match displace(directory, &home) {
                Ok(()) => removed += 1,
                Err(source) => failure = failure.or_else(|| Some(at(&home, source))),
            }
        }
    }
    failure.map_or(Ok(removed), Err)
}

fn at(path: &Path, source: io::Error) -> HostsError {
    HostsError { path: path.to_owned(), source }
}

fn is_ours(path: &Path) -> io::Result<bool> {
    let content = fs::read(path)?;
    Ok(content.split(|&byte| byte == b'\n').next() == Some(MARKER.as_bytes()))
}

fn is_staging(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(STAGING))
}

/// A path below `directory` that nobody else uses.
fn staging(directory: &Path) -> PathBuf {
    directory.join(format!("{STAGING}-{:016x}", rand::random::<u64>()))
}

/// Puts the file into `home`; a directory that is not there yet appears with the file in it.
fn place(directory: &Path, home: &Path, text: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let staged = staging(directory);
    fs::DirBuilder::new().mode(0o755).create(&staged)?;
    let placed = write_secret(&staged.join(FILE), text).and_then(|()| {
        if home.is_dir() {
            fs::rename(staged.join(FILE), home.join(FILE))
        } else {
            fs::rename(&staged, home)
        }
    });
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    placed
}

/// Takes the file out of `home`, and `home` with it unless something else is in it.
fn displace(directory: &Path, home: &Path) -> io::Result<()> {
    if fs::read_dir(home)?.count() > 1 {
        return fs::remove_file(home.join(FILE));
    }
    let staged = staging(directory);
    fs::rename(home, &staged)?;
    fs::remove_dir_all(&staged)
}

/// The secret is in it: nobody but root reads it, from its first moment on.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The file's text. Never `skip_verify`, `ca` or `client` for the mirror: containerd 1.7 and later
/// would then try TLS first and silently skip it.
fn text(registry: &Mirrored, mirror: &MirrorHost) -> String {
    let host = reachable(mirror.address);
    let mut text = format!("{MARKER}\n");
    if let Some(server) = server(registry, &mirror.origin) {
        text += &format!("server = \"{server}\"\n");
    }
    text += &format!("\n[host.\"http://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    if let Some(secret) = &mirror.secret {
        let value = secret.authorization();
        text += &format!("  [host.\"http://{host}\".header]\n    Authorization = \"{value}\"\n");
    }
    if registry.is_fronted() {
        // The origin knows it by the `ns` that containerd sends along; then comes the registry.
        let origin = mirror.origin.as_str().trim_end_matches('/');
        text += &format!("\n[host.\"{origin}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    }
    text
}

/// Where containerd goes when the mirror does not serve: the registry itself. A name of the
/// origin's is spoken to as the origin is; over HTTPS containerd finds it without being told, and
/// so it does for `_default`, which is no name, and for a registry that the origin fronts.
fn server(registry: &Mirrored, origin: &Url) -> Option<String> {
    if registry.is_fronted() {
        return None;
    }
    let registry = registry.name();
    let named = registry.as_str();
    if Namespace::of_origin(origin).as_ref() == Ok(registry) {
        return Some(origin.as_str().trim_end_matches('/').to_owned());
    }
    (origin.scheme() == "http" && !registry.is_default()).then(|| format!("http://{named}"))
}

/// Where a local client reaches a listener: an unspecified address stands for loopback.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
