//! `[upstream]`: the registries that this one fronts.
//!
//! Secrets are never here: a registry's password is named by its file or its variable.

use std::path::PathBuf;

use longshore_proto::RepositoryName;
use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "upstream.spool_directory",
        kind: Kind::Text,
        help: "where bytes of blobs on their way from an upstream lie \
               [default: the system's temporary directory]",
    },
    Setting {
        key: "upstream.spool_bytes_max",
        kind: Kind::Number,
        help: "such bytes at one time; 0: as many as the disk has room for [default: 0]",
    },
    Setting {
        key: "upstream.abandoned_bytes_max",
        kind: Kind::Number,
        help: "a blob that nobody reads any more is fetched to its end when at most so much \
               is left of it [default: 1073741824]",
    },
    Setting {
        key: "upstream.abandoned_s",
        kind: Kind::Number,
        help: "seconds after which any other such blob is given up [default: 10]",
    },
    Setting {
        key: "upstream.absent_s",
        kind: Kind::Number,
        help: "seconds for which an upstream's refusal is believed [default: 5]",
    },
    Setting {
        key: "upstream.push_wait_s",
        kind: Kind::Number,
        help: "seconds that a push waits for its upstream to close a blob; then the client is told \
               to come back, and the upstream is still waited for [default: 20]",
    },
    Setting {
        key: "upstream.own_ns",
        kind: Kind::List,
        help: "values of ns that mean this registry's own repositories [default: none]",
    },
];

/// Longest time for which a refusal may be believed.
const ABSENT_S_MAX: u64 = 60;
/// Clients give up when an answer takes 30 s.
const PUSH_WAIT_S_MAX: u64 = 25;
/// Most requests that one upstream may see at once.
const IN_FLIGHT_MAX: u32 = 10_000;

/// `[upstream]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Where growing blobs lie; `None`: the system's temporary directory.
    #[serde(deserialize_with = "super::optional_path")]
    pub spool_directory: Option<PathBuf>,
    /// Bytes of them at one time; 0: what the disk has.
    pub spool_bytes_max: u64,
    /// What may be left of a blob that is fetched on for nobody.
    pub abandoned_bytes_max: u64,
    /// Seconds for which more than that is fetched on for nobody.
    pub abandoned_s: u64,
    /// Seconds for which "not found" and "denied" are believed.
    #[serde(deserialize_with = "absent")]
    pub absent_s: u64,
    /// Seconds that a push waits for its upstream to close a blob.
    #[serde(deserialize_with = "push_wait")]
    pub push_wait_s: u64,
    /// Values of `ns` that mean this registry itself.
    pub own_ns: Vec<String>,
    /// `[[upstream.registry]]`
    pub registry: Vec<UpstreamRegistry>,
}

/// `[[upstream.registry]]`: one registry that this one fronts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamRegistry {
    /// First part of its repositories' names here.
    #[serde(deserialize_with = "prefix")]
    pub prefix: RepositoryName,
    /// Values of `ns` that mean it.
    #[serde(default)]
    pub ns: Vec<String>,
    /// `https://HOST[:PORT]`
    #[serde(deserialize_with = "url")]
    pub url: String,
    /// Of the credentials; empty: anonymous.
    #[serde(default)]
    pub username: String,
    /// The file with the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The environment variable with the password.
    #[serde(default)]
    pub password_env: Option<String>,
    /// `HOST[:PORT]` that tokens may be fetched from; empty: the registry's own.
    #[serde(default)]
    pub realms: Vec<String>,
    /// `HOST[:PORT]` that it may send this registry to although their addresses are private.
    #[serde(default)]
    pub redirects: Vec<String>,
    /// Roots for TLS, PEM; `None`: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// 0: as many as it takes.
    #[serde(default)]
    pub requests_per_s: u32,
    /// Manifests, lists and heads asked for at once.
    #[serde(default = "requests_in_flight", deserialize_with = "in_flight")]
    pub requests_in_flight_max: u32,
    /// Blobs read at once.
    #[serde(default = "fills_in_flight", deserialize_with = "in_flight")]
    pub fills_in_flight_max: u32,
    /// Seconds for which a tag is believed.
    #[serde(default = "tag_fresh")]
    pub tag_fresh_s: u64,
    /// Seconds for which a tag is served while the registry cannot be asked.
    #[serde(default = "tag_stale")]
    pub tag_stale_max_s: u64,
    /// What becomes of pushes.
    #[serde(default)]
    pub push: PushMode,
}

/// What becomes of pushes into a fronted repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushMode {
    /// Refused.
    #[default]
    Refuse,
    /// Passed on, and kept here once the upstream has taken them.
    Pass,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            spool_directory: None,
            spool_bytes_max: 0,
            abandoned_bytes_max: 1024 * 1024 * 1024,
            abandoned_s: 10,
            absent_s: 5,
            push_wait_s: 20,
            own_ns: Vec::new(),
            registry: Vec::new(),
        }
    }
}

const fn requests_in_flight() -> u32 {
    64
}

const fn fills_in_flight() -> u32 {
    32
}

const fn tag_fresh() -> u64 {
    30
}

const fn tag_stale() -> u64 {
    24 * 60 * 60
}

/// Leaves room for the upstream's own names behind it.
fn prefix<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RepositoryName, D::Error> {
    const PREFIX_CHARS_MAX: usize = 64;
    let text = String::deserialize(from)?;
    if text.len() > PREFIX_CHARS_MAX {
        return Err(D::Error::custom(format!("longer than {PREFIX_CHARS_MAX} characters")));
    }
    text.parse().map_err(D::Error::custom)
}

fn url<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let url = super::base_url(from)?;
    url.ok_or_else(|| D::Error::custom("is empty"))
}

fn absent<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(from)?;
    if seconds <= ABSENT_S_MAX {
        return Ok(seconds);
    }
    Err(D::Error::custom(format!("not between 0 and {ABSENT_S_MAX}")))
}

fn push_wait<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(from)?;
    if (1..=PUSH_WAIT_S_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    Err(D::Error::custom(format!("not between 1 and {PUSH_WAIT_S_MAX}")))
}

fn in_flight<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let count = u32::deserialize(from)?;
    if (1..=IN_FLIGHT_MAX).contains(&count) {
        return Ok(count);
    }
    Err(D::Error::custom(format!("not between 1 and {IN_FLIGHT_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[[registry]]\nprefix = \"hub\"\nurl = \"https://hub.example/\"\n";

    #[test]
    fn a_name_and_an_address_are_enough() {
        let read: Upstream = toml::from_str(LEAST).unwrap();
        let hub = &read.registry[0];
        assert_eq!((hub.prefix.as_str(), hub.url.as_str()), ("hub", "https://hub.example"));
        assert_eq!((hub.push, hub.tag_fresh_s, hub.requests_per_s), (PushMode::Refuse, 30, 0));
    }

    #[test]
    fn what_can_not_work_is_refused() {
        for wrong in [
            "[[registry]]\nprefix = \"hub\"\n".to_owned(),
            LEAST.replace("hub.example/", "hub.example/path"),
            LEAST.replace("\"hub\"", "\"Hub\""),
            LEAST.replace("https://hub.example/", ""),
            LEAST.replace("\"hub\"", &format!("\"{}\"", "a".repeat(65))),
            format!("{LEAST}requests_in_flight_max = 0\n"),
            format!("{LEAST}fills_in_flight_max = 10001\n"),
            format!("{LEAST}push = \"maybe\"\n"),
            format!("{LEAST}password = \"secret\"\n"),
            format!("absent_s = 61\n{LEAST}"),
            format!("push_wait_s = 0\n{LEAST}"),
            format!("push_wait_s = 26\n{LEAST}"),
        ] {
            assert!(toml::from_str::<Upstream>(&wrong).is_err(), "{wrong}");
        }
    }
}
