//! The agent's settings: one table, one struct, one place where they are checked.
//!
//! Owns the names and defaults. A value that can not work is refused here, in one line with its
//! key's name, before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use longshore_proto::sign::{PublicKey, PublicKeys};
use longshore_settings::{Kind, Setting, SettingsError};
use reqwest::Url;
use serde::Deserialize;

use crate::containerd::{InvalidMirrored, Mirrored, Namespace};

mod raw;

pub use raw::RawConfig;

/// Read when `--config` names none; may be missing.
pub const DEFAULT_FILE: &str = "/etc/longshore/agent.toml";

const fn setting(key: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { key, kind, help }
}

/// What `remove-hosts` needs; whatever else is wrong with the configuration, hosts.toml must go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostsOnly {
    containerd: HostsDirOnly,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct HostsDirOnly {
    hosts_dir: PathBuf,
}

impl Default for HostsDirOnly {
    fn default() -> Self {
        Self { hosts_dir: raw::Containerd::default().hosts_dir }
    }
}

impl HostsOnly {
    /// `containerd.hosts_dir`
    pub fn directory(&self) -> &std::path::Path {
        &self.containerd.hosts_dir
    }
}

/// Every setting of the agent.
pub const SETTINGS: &[Setting] = &[
    setting("origin.url", Kind::Text, "the registry, http://host:port (required)"),
    setting("origin.signing_keys", Kind::List, "the registry's public keys, KID:BASE64 (required)"),
    setting("origin.token_file", Kind::Text, "join with the token in this file [anonymous]"),
    setting("node.name", Kind::Text, "this node's name [host name]"),
    setting("node.pool", Kind::Text, "nodes of one pool exchange pieces [default]"),
    setting("node.zone", Kind::Text, "peers of the same zone come first [default]"),
    setting("mirror.listen", Kind::Text, "where containerd finds the mirror [127.0.0.1:777]"),
    setting("mirror.open", Kind::Switch, "answer without the secret of hosts.toml [false]"),
    setting(
        "mirror.first_byte_timeout_ms",
        Kind::Number,
        "then containerd asks the next host [10000]",
    ),
    setting(
        "mirror.stall_timeout_ms",
        Kind::Number,
        "then a waiting client gets extra origin bytes [5000]",
    ),
    setting(
        "mirror.tag_stale_max_s",
        Kind::Number,
        "oldest answer for a tag while the origin is down [86400]",
    ),
    setting(
        "containerd.hosts_dir",
        Kind::Text,
        "containerd's config_path [/etc/containerd/certs.d]",
    ),
    setting(
        "containerd.registries",
        Kind::List,
        "namespaces that get a hosts.toml; NAME=PREFIX where the origin fronts another registry \
         [origin.url's host:port]",
    ),
    setting("swarm.listen", Kind::Text, "where peers reach this node [0.0.0.0:7770]"),
    setting(
        "swarm.advertise",
        Kind::Text,
        "IP:port told to peers [the address that faces the origin]",
    ),
    setting("swarm.enabled", Kind::Switch, "exchange pieces with peers [true]"),
    setting("store.path", Kind::Text, "where pieces are kept [/var/lib/longshore]"),
    setting("store.bytes_max", Kind::Number, "most bytes kept; 0: 80 % of the filesystem [0]"),
    setting("admin.listen", Kind::Text, "/metrics, /livez and /readyz [127.0.0.1:7771]"),
    setting("control.socket", Kind::Text, "the operators' socket [/run/longshore/agent.sock]"),
    setting(
        "watchdog.timeout_ms",
        Kind::Number,
        "abort when the runtime is silent for this long [2000]",
    ),
    setting("log.filter", Kind::Text, "tracing filter [info]"),
    setting("log.format", Kind::Text, "text or json [text]"),
];

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The registry.
    pub origin: OriginConfig,
    /// What the node calls itself.
    pub node: NodeConfig,
    /// The front door.
    pub mirror: MirrorConfig,
    /// What containerd is told.
    pub containerd: ContainerdConfig,
    /// The exchange between nodes.
    pub swarm: SwarmSettings,
    /// The disk.
    pub store: crate::store::StoreConfig,
    /// Metrics and health.
    pub admin_listen: SocketAddr,
    /// The operators' socket.
    pub control_socket: PathBuf,
    /// Silence of the runtime that ends the process.
    pub watchdog_timeout: Duration,
    /// Logging.
    pub log: LogConfig,
}

/// `origin.*`
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// `http://host:port/`
    pub url: Url,
    /// The only keys whose word counts.
    pub signing_keys: PublicKeys,
    /// None joins anonymously.
    pub token_file: Option<PathBuf>,
}

/// `node.*`
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name.
    pub name: String,
    /// Nodes of one pool exchange pieces.
    pub pool: String,
    /// Peers of one zone come first.
    pub zone: String,
}

/// `mirror.*`
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// A loopback address.
    pub listen: SocketAddr,
    /// No secret is asked.
    pub open: bool,
    /// Longest wait for the first byte of an answer.
    pub first_byte_timeout: Duration,
    /// Longest wait at a client's cursor before extra bytes are taken.
    pub stall_timeout: Duration,
    /// Oldest answer for a tag while the origin is down.
    pub tag_stale_max: Duration,
}

/// `containerd.*`
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// containerd's `config_path`.
    pub hosts_dir: PathBuf,
    /// Whose pulls go through the mirror.
    pub registries: Vec<Mirrored>,
}

/// `swarm.*`
#[derive(Clone, Debug)]
pub struct SwarmSettings {
    /// Where peers reach this node.
    pub listen: SocketAddr,
    /// What peers are told, where it differs.
    pub advertise: Option<SocketAddr>,
    /// Off: everything comes from the origin.
    pub enabled: bool,
}

/// `log.*`
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// As `tracing_subscriber::EnvFilter` reads it.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl TryFrom<RawConfig> for Config {
    type Error = SettingsError;

    fn try_from(raw: RawConfig) -> Result<Self, SettingsError> {
        let origin = origin(&raw)?;
        let mirror = mirror(&raw)?;
        Ok(Self {
            containerd: ContainerdConfig {
                registries: registries(&raw.containerd.registries, &origin.url)?,
                hosts_dir: directory("containerd.hosts_dir", raw.containerd.hosts_dir)?,
            },
            origin,
            mirror,
            node: node(raw.node)?,
            swarm: SwarmSettings {
                listen: address("swarm.listen", &raw.swarm.listen)?,
                advertise: advertise(&raw.swarm.advertise)?,
                enabled: raw.swarm.enabled,
            },
            store: crate::store::StoreConfig {
                path: directory("store.path", raw.store.path)?,
                bytes_max: raw.store.bytes_max,
            },
            admin_listen: address("admin.listen", &raw.admin.listen)?,
            control_socket: directory("control.socket", raw.control.socket)?,
            watchdog_timeout: milliseconds(
                "watchdog.timeout_ms",
                raw.watchdog.timeout_ms,
                500..=600_000,
            )?,
            log: log(raw.log)?,
        })
    }
}

/// One line on standard error: which key, and what is wrong with it.
fn bad(key: &str, message: impl Into<String>) -> SettingsError {
    SettingsError::Key { key: key.to_owned(), message: message.into() }
}

fn origin(raw: &RawConfig) -> Result<OriginConfig, SettingsError> {
    if raw.origin.url.is_empty() {
        return Err(bad("origin.url", "is required, for example http://10.77.0.1:5000"));
    }
    let url: Url =
        raw.origin.url.parse().map_err(|error| bad("origin.url", format!("not a URL: {error}")))?;
    if url.scheme() != "http" {
        return Err(bad("origin.url", "only http:// is supported"));
    }
    if url.host_str().is_none_or(str::is_empty) || !matches!(url.path(), "" | "/") {
        return Err(bad("origin.url", "not http://host:port"));
    }
    if raw.origin.signing_keys.is_empty() {
        return Err(bad(
            "origin.signing_keys",
            "is required: `longshore-registry keys show` prints them",
        ));
    }
    let keys = raw.origin.signing_keys.iter().map(|key| key.parse::<PublicKey>());
    let keys = keys
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad("origin.signing_keys", error.to_string()))?;
    let token_file = &raw.origin.token_file;
    let token_file = (!token_file.as_os_str().is_empty()).then(|| token_file.clone());
    if let Some(path) = &token_file
        && let Err(error) = std::fs::File::open(path)
    {
        return Err(bad("origin.token_file", format!("{}: {error}", path.display())));
    }
    Ok(OriginConfig { url, signing_keys: PublicKeys::new(keys), token_file })
}

fn mirror(raw: &RawConfig) -> Result<MirrorConfig, SettingsError> {
    let raw = &raw.mirror;
    let listen = address("mirror.listen", &raw.listen)?;
    if !listen.ip().is_loopback() {
        return Err(bad("mirror.listen", "not a loopback address"));
    }
    // containerd gives up when headers take 30 s.
    let first_byte_timeout =
        milliseconds("mirror.first_byte_timeout_ms", raw.first_byte_timeout_ms, 100..=25_000)?;
    Ok(MirrorConfig {
        listen,
        open: raw.open,
        first_byte_timeout,
        stall_timeout: milliseconds("mirror.stall_timeout_ms", raw.stall_timeout_ms, 100..=60_000)?,
        tag_stale_max: Duration::from_secs(raw.tag_stale_max_s),
    })
}

fn node(raw: raw::Node) -> Result<NodeConfig, SettingsError> {
    let name = if raw.name.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        raw.name
    };
    Ok(NodeConfig {
        name: word("node.name", name)?,
        pool: word("node.pool", raw.pool)?,
        zone: word("node.zone", raw.zone)?,
    })
}

fn log(raw: raw::Log) -> Result<LogConfig, SettingsError> {
    if let Err(error) = raw.filter.parse::<tracing_subscriber::filter::Targets>()
        && tracing_subscriber::EnvFilter::try_new(&raw.filter).is_err()
    {
        return Err(bad("log.filter", error.to_string()));
    }
    Ok(LogConfig { filter: raw.filter, format: raw.format })
}

fn registries(given: &[String], origin: &Url) -> Result<Vec<Mirrored>, SettingsError> {
    let key = "containerd.registries";
    if given.is_empty() {
        let own = Namespace::of_origin(origin).map_err(|error| bad(key, error.to_string()))?;
        return Ok(vec![own.into()]);
    }
    let parse = |name: &String| {
        name.parse().map_err(|error: InvalidMirrored| bad(key, format!("{name}: {error}")))
    };
    let all = given.iter().map(parse).collect::<Result<Vec<Mirrored>, _>>()?;
    for (at, one) in all.iter().enumerate() {
        if all[..at].iter().any(|other| other.name() == one.name()) {
            return Err(bad(key, format!("{} is named twice", one.name())));
        }
    }
    Ok(all)
}

fn address(key: &str, text: &str) -> Result<SocketAddr, SettingsError> {
    text.parse().map_err(|_| bad(key, "not IP:port"))
}

fn advertise(text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = address("swarm.advertise", text)?;
    let nowhere = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
    if nowhere(address.ip()) || address.port() == 0 {
        return Err(bad("swarm.advertise", "peers can not dial it"));
    }
    Ok(Some(address))
}

fn directory(key: &str, path: PathBuf) -> Result<PathBuf, SettingsError> {
    if path.is_absolute() { Ok(path) } else { Err(bad(key, "not an absolute path")) }
}

fn milliseconds(
    key: &str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, SettingsError> {
    if range.contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    Err(bad(key, format!("not between {} and {}", range.start(), range.end())))
}

/// A name that is safe in logs and tables.
fn word(key: &str, text: String) -> Result<String, SettingsError> {
    let printable = |c: char| c.is_ascii_graphic();
    if !text.is_empty() && text.len() <= 253 && text.chars().all(printable) {
        return Ok(text);
    }
    Err(bad(key, "not a name of up to 253 printable characters without spaces"))
}

#[cfg(test)]
mod tests;
