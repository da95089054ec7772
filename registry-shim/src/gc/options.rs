//! What a run is told.

use crate::config;
use crate::storage::GRACE_MIN_MS;

/// Bytes of the filter of what is held: 16 MiB are good for ten million memberships.
const FILTER_BYTES: usize = 16 * 1024 * 1024;
/// Names of segments that are held in memory at once: 64 MB.
const SEGMENTS_MAX: usize = 4_000_000;
/// Items of a repository that are held in memory at once, each about 100 bytes.
const ITEMS_MAX: usize = 500_000;

/// How a run works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing is changed.
    pub dry_run: bool,
    /// From an item's tombstone to its deletion; not less than [`GRACE_MIN_MS`].
    pub grace_ms: u64,
    /// Deletions in a second; 0: as many as go.
    pub deletes_per_s: u32,
    /// Untagged manifests that are as old are garbage; `None`: they stay.
    pub untagged_after_ms: Option<u64>,
    /// Entries of a tag's history that stay; `None`: all.
    pub tag_history_max: Option<usize>,
    /// Another run is known to be dead: its lease does not count.
    pub take_over: bool,
    /// Bytes of the filter.
    pub filter_bytes: usize,
    /// Names of segments in memory.
    pub segments_max: usize,
    /// Items of a repository in memory.
    pub items_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dry_run: false,
            grace_ms: config::Gc::default().grace_s * 1000,
            deletes_per_s: 0,
            untagged_after_ms: None,
            tag_history_max: None,
            take_over: false,
            filter_bytes: FILTER_BYTES,
            segments_max: SEGMENTS_MAX,
            items_max: ITEMS_MAX,
        }
    }
}

impl From<&config::Gc> for Options {
    fn from(config: &config::Gc) -> Self {
        let some = |value: u64| (value > 0).then_some(value);
        Self {
            grace_ms: (config.grace_s * 1000).max(GRACE_MIN_MS),
            deletes_per_s: config.deletes_per_s,
            untagged_after_ms: some(config.untagged_after_s).map(|seconds| seconds * 1000),
            tag_history_max: some(config.tag_history_max)
                .map(|entries| usize::try_from(entries).unwrap_or(usize::MAX)),
            ..Self::default()
        }
    }
}
