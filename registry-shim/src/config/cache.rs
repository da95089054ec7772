//! `[cache]`: what an instance keeps in memory of its store, and for how long.

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

/// Less holds no useful share for any of the caches.
const BYTES_MIN: u64 = 1024 * 1024;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "cache.bytes_max",
        kind: Kind::Number,
        help: "bytes of manifests, pointers and piece lists in memory [default: 134217728]",
    },
    Setting {
        key: "cache.tag_fresh_ms",
        kind: Kind::Number,
        help: "milliseconds for which a tag is not asked for again [default: 2000]",
    },
    Setting {
        key: "cache.fresh_s",
        kind: Kind::Number,
        help: "seconds after which another instance's delete is seen [default: 60]",
    },
    Setting {
        key: "cache.stale_max_s",
        kind: Kind::Number,
        help: "seconds for which kept answers are used while the store fails [default: 3600]",
    },
];

/// Longest: what was seen in the store is kept for less time than the collector leaves it alone.
const FRESH_S_MAX: u64 = 900;

/// `[cache]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Of all caches together.
    #[serde(deserialize_with = "bytes_max")]
    pub bytes_max: u64,
    /// Milliseconds.
    pub tag_fresh_ms: u64,
    /// Seconds.
    #[serde(deserialize_with = "fresh_s")]
    pub fresh_s: u64,
    /// Seconds.
    pub stale_max_s: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { bytes_max: 128 * 1024 * 1024, tag_fresh_ms: 2000, fresh_s: 60, stale_max_s: 3600 }
    }
}

fn bytes_max<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let bytes = u64::deserialize(from)?;
    if bytes >= BYTES_MIN { Ok(bytes) } else { Err(D::Error::custom("less than 1 MiB")) }
}

fn fresh_s<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(from)?;
    if seconds <= FRESH_S_MAX { Ok(seconds) } else { Err(D::Error::custom("more than 900")) }
}
