//! `[gc]`: what is collected, when, and how fast.

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

/// Requests and caches rely on what they saw for parts of this: an hour, as in `storage`.
const GRACE_S_MIN: u64 = 3600;
/// A year: more is a typing error.
const SECONDS_MAX: u64 = 366 * 24 * 3600;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "gc.interval_s",
        kind: Kind::Number,
        help: "seconds between two collections by a serving instance, 0 for none [default: 0]",
    },
    Setting {
        key: "gc.grace_s",
        kind: Kind::Number,
        help: "seconds from finding garbage to deleting it, longer than any push [default: 93600]",
    },
    Setting {
        key: "gc.deletes_per_s",
        kind: Kind::Number,
        help: "deletions in a second, 0 for no limit [default: 500]",
    },
    Setting {
        key: "gc.untagged_after_s",
        kind: Kind::Number,
        help: "seconds after which untagged manifests are garbage, 0 for never [default: 0]",
    },
    Setting {
        key: "gc.tag_history_max",
        kind: Kind::Number,
        help: "entries of a tag's history that stay, 0 for all [default: 0]",
    },
];

/// `[gc]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// Seconds; 0: never in the background.
    #[serde(deserialize_with = "seconds")]
    pub interval_s: u64,
    /// Seconds.
    #[serde(deserialize_with = "grace_s")]
    pub grace_s: u64,
    /// 0: no limit.
    pub deletes_per_s: u32,
    /// Seconds; 0: never.
    #[serde(deserialize_with = "seconds")]
    pub untagged_after_s: u64,
    /// 0: all.
    pub tag_history_max: u64,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            interval_s: 0,
            // A day, as long as an upload may take, and two hours for its last request.
            grace_s: 26 * 3600,
            deletes_per_s: 500,
            untagged_after_s: 0,
            tag_history_max: 0,
        }
    }
}

fn grace_s<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let grace = seconds(from)?;
    if grace >= GRACE_S_MIN { Ok(grace) } else { Err(D::Error::custom("less than 3600")) }
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let seconds = u64::deserialize(from)?;
    if seconds <= SECONDS_MAX { Ok(seconds) } else { Err(D::Error::custom("more than a year")) }
}
