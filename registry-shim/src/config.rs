//! The configuration: its keys, their defaults, and the types that they are parsed into.

pub mod auth;
mod cache;
mod gc;
pub mod limits;
mod quota;
mod regions;
mod storage;
pub mod telemetry;
pub mod tls;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

pub use cache::Cache;
pub use gc::Gc;
pub use quota::Quota;
pub use regions::{Region, Regions};
pub use storage::Storage;
pub use upstream::{PushMode, Upstream, UpstreamRegistry};

use crate::StartError;

/// Read when `--config` names no file; may be missing.
pub const DEFAULT_FILE: &str = "/etc/longshore/registry.toml";

/// Shortest time between two announces of a node.
const ANNOUNCE_PERIOD_MS_MIN: u32 = 100;
/// Longest; a dead member counts for three of them.
const ANNOUNCE_PERIOD_MS_MAX: u32 = 300_000;

/// Every key, as flags and environment variables spell it. Lists of tables (`[[…]]`) stand in the
/// file alone and have none.
pub fn settings() -> &'static [Setting] {
    static ALL: LazyLock<Vec<Setting>> = LazyLock::new(|| SECTIONS.concat());
    &ALL
}

/// Each section's file owns its own.
const SECTIONS: &[&[Setting]] = &[
    BASE,
    auth::SETTINGS,
    cache::SETTINGS,
    gc::SETTINGS,
    quota::SETTINGS,
    regions::SETTINGS,
    storage::SETTINGS,
    tls::SETTINGS,
    limits::SETTINGS,
    telemetry::SETTINGS,
    upstream::SETTINGS,
];

const BASE: &[Setting] = &[
    Setting {
        key: "serve.listen",
        kind: Kind::Text,
        help: "address of the OCI API and gRPC [default: 0.0.0.0:5000]",
    },
    Setting {
        key: "serve.advertise",
        kind: Kind::Text,
        help: "base URL that permits name [default: the address that the client used]",
    },
    Setting {
        key: "serve.drain_delay_ms",
        kind: Kind::Number,
        help: "milliseconds from /readyz saying 503 to the port's closing [default: 0]",
    },
    Setting {
        key: "serve.drain_grace_ms",
        kind: Kind::Number,
        help: "milliseconds for requests under way at the end [default: 25000]",
    },
    Setting {
        key: "admin.listen",
        kind: Kind::Text,
        help: "address of /metrics, /livez and /readyz [default: 127.0.0.1:5001]",
    },
    Setting {
        key: "identity.signing_key_file",
        kind: Kind::Text,
        help: "Ed25519 key, PKCS#8 PEM, mode 0600 \
               [default: /var/lib/longshore-registry-keys/signing.pem]",
    },
    Setting {
        key: "identity.accepted_key_files",
        kind: Kind::List,
        help: "keys that do not sign and whose signatures count, during a rotation [default: none]",
    },
    Setting {
        key: "join.token_file",
        kind: Kind::Text,
        help: "lines TOKEN [POOL…]: who may join what [default: none, anyone may join]",
    },
    Setting {
        key: "tracker.announce_period_ms",
        kind: Kind::Number,
        help: "milliseconds between two announces of a node [default: 5000]",
    },
    Setting {
        key: "log.filter",
        kind: Kind::Text,
        help: "what is logged, as in RUST_LOG [default: info]",
    },
    Setting {
        key: "log.slow_request_ms",
        kind: Kind::Number,
        help: "reads whose answer takes longer are logged; 0: none [default: 1000]",
    },
    Setting { key: "log.format", kind: Kind::Text, help: "text or json [default: text]" },
];

/// Everything that can be set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The main port.
    pub serve: Serve,
    /// The operators' port.
    pub admin: Admin,
    /// The store.
    pub storage: Storage,
    /// What is kept in memory of it.
    pub cache: Cache,
    /// Collection.
    pub gc: Gc,
    /// Keys.
    pub identity: Identity,
    /// Who may do what.
    pub auth: auth::Auth,
    /// Who may join.
    pub join: Join,
    /// Members and permits.
    pub tracker: Tracker,
    /// The main port's encryption.
    pub tls: tls::Tls,
    /// What is taken on at once.
    pub limits: limits::Limits,
    /// Traces.
    pub telemetry: telemetry::Telemetry,
    /// The registries that this one fronts.
    pub upstream: Upstream,
    /// What projects may hold.
    pub quota: Quota,
    /// Logging.
    pub log: Log,
    /// Stores in several regions.
    pub regions: Regions,
}

/// `[serve]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// OCI and gRPC on one port.
    pub listen: SocketAddr,
    /// Base URL that permits name.
    #[serde(deserialize_with = "base_url")]
    pub advertise: Option<String>,
    /// From `/readyz` saying so to the port's closing.
    #[serde(deserialize_with = "ten_minutes")]
    pub drain_delay_ms: u32,
    /// For requests under way at the end.
    #[serde(deserialize_with = "ten_minutes")]
    pub drain_grace_ms: u32,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Metrics and health.
    pub listen: SocketAddr,
}

/// `[identity]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// The same on every instance.
    pub signing_key_file: PathBuf,
    /// The next key before a rotation's change, the one before after it.
    pub accepted_key_files: Vec<PathBuf>,
}

impl Config {
    /// What no setting shows by itself.
    ///
    /// # Errors
    /// With the key that is wrong beside another one.
    pub fn check(&self) -> Result<(), StartError> {
        let regions = self.regions.region.iter().map(|region| &region.storage);
        let outlives = |storage: &Storage| u64::from(storage.redirect_expiry_s) > self.gc.grace_s;
        if std::iter::once(&self.storage).chain(regions).any(outlives) {
            let message = format!("more than gc.grace_s, {}: its bytes may go", self.gc.grace_s);
            return Err(StartError::Config { key: "storage.redirect_expiry_s", message });
        }
        Ok(())
    }
}

/// `[join]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// Tokens, one a line.
    #[serde(deserialize_with = "optional_path")]
    pub token_file: Option<PathBuf>,
    /// Whom issuers vouch for may join too.
    pub identity: Vec<JoinIdentity>,
}

/// `[[join.identity]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinIdentity {
    /// `jwt:ISSUER:SUB` or `group:NAME`; `*` inside a name stands for any characters.
    pub subjects: Vec<String>,
    /// Patterns of the pools that nodes with such an identity may join.
    pub pools: Vec<String>,
}

/// `[tracker]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracker {
    /// Milliseconds between two announces of a node.
    #[serde(deserialize_with = "announce_period")]
    pub announce_period_ms: u32,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// As in `RUST_LOG`.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
    /// Reads whose answer takes longer are logged; 0: none.
    pub slow_request_ms: u32,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 5000)),
            advertise: None,
            drain_delay_ms: 0,
            drain_grace_ms: 25_000,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 5001)) }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            signing_key_file: "/var/lib/longshore-registry-keys/signing.pem".into(),
            accepted_key_files: Vec::new(),
        }
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self { announce_period_ms: 5000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), slow_request_ms: 1000, format: LogFormat::Text }
    }
}

fn base_url<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let text = text.trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let uri: http::Uri = text.parse().map_err(D::Error::custom)?;
    let is_base = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some()
        && uri.path() == "/"
        && uri.query().is_none();
    if is_base { Ok(Some(text.to_owned())) } else { Err(D::Error::custom("not http://HOST:PORT")) }
}

fn optional_path<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

fn announce_period<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let period = u32::deserialize(from)?;
    if (ANNOUNCE_PERIOD_MS_MIN..=ANNOUNCE_PERIOD_MS_MAX).contains(&period) {
        return Ok(period);
    }
    let bounds = format!("not between {ANNOUNCE_PERIOD_MS_MIN} and {ANNOUNCE_PERIOD_MS_MAX}");
    Err(D::Error::custom(bounds))
}

fn ten_minutes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        ms @ 0..=600_000 => Ok(ms),
        _ => Err(D::Error::custom("more than 600000")),
    }
}

fn filter<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    text.parse::<tracing_subscriber::filter::Targets>()
        .map(|_| ())
        .or_else(|_| tracing_subscriber::EnvFilter::try_new(&text).map(|_| ()))
        .map_err(D::Error::custom)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
