//! The settings as they are written, with their defaults.

use std::path::PathBuf;

use serde::Deserialize;

use super::LogFormat;

/// A configuration file's shape; unknown keys are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    #[serde(default)]
    pub(super) origin: Origin,
    #[serde(default)]
    pub(super) node: Node,
    #[serde(default)]
    pub(super) mirror: Mirror,
    #[serde(default)]
    pub(super) containerd: Containerd,
    #[serde(default)]
    pub(super) swarm: Swarm,
    #[serde(default)]
    pub(super) store: Store,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) control: Control,
    #[serde(default)]
    pub(super) watchdog: Watchdog,
    #[serde(default)]
    pub(super) log: Log,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Origin {
    pub(super) url: String,
    pub(super) signing_keys: Vec<String>,
    pub(super) token_file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) pool: String,
    pub(super) zone: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mirror {
    pub(super) listen: String,
    pub(super) open: bool,
    pub(super) first_byte_timeout_ms: u64,
    pub(super) stall_timeout_ms: u64,
    pub(super) tag_stale_max_s: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Containerd {
    pub(super) hosts_dir: PathBuf,
    pub(super) registries: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Swarm {
    pub(super) listen: String,
    pub(super) advertise: String,
    pub(super) enabled: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Store {
    pub(super) path: PathBuf,
    pub(super) bytes_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub(super) listen: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Control {
    pub(super) socket: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Watchdog {
    pub(super) timeout_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) filter: String,
    pub(super) format: LogFormat,
}

impl Default for Node {
    fn default() -> Self {
        Self { name: String::new(), pool: "default".into(), zone: "default".into() }
    }
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:777".into(),
            open: false,
            first_byte_timeout_ms: 10_000,
            stall_timeout_ms: 5_000,
            tag_stale_max_s: 24 * 60 * 60,
        }
    }
}

impl Default for Containerd {
    fn default() -> Self {
        Self { hosts_dir: "/etc/containerd/certs.d".into(), registries: Vec::new() }
    }
}

impl Default for Swarm {
    fn default() -> Self {
        Self { listen: "0.0.0.0:7770".into(), advertise: String::new(), enabled: true }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { path: "/var/lib/longshore".into(), bytes_max: 0 }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7771".into() }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: "/run/longshore/agent.sock".into() }
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { timeout_ms: 2_000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}
