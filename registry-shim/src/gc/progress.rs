//! How far a run has come, and which run is at work: two small records in the store.

use serde::{Deserialize, Serialize};

use super::Report;

/// Where the progress is kept.
pub(super) const PROGRESS: &str = "gc/run/progress";
/// Where the run at work says so.
pub(super) const LEASE: &str = "gc/run/lease";
/// How long a run that says nothing counts as at work.
pub(super) const LEASE_MS: u64 = 2 * 60 * 1000;
/// Between two signs of life.
pub(super) const RENEW_MS: u64 = 30 * 1000;
/// A run that stood still for longer begins anew: little of it still holds.
pub(super) const RESUME_MS: u64 = 24 * 60 * 60 * 1000;

/// Parts of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Uploads,
    Repositories,
    Catalog,
    Blobs,
    Segments,
    Charges,
    Probes,
}

impl Stage {
    pub(super) const ALL: [Self; 7] = [
        Self::Uploads,
        Self::Repositories,
        Self::Catalog,
        Self::Blobs,
        Self::Segments,
        Self::Charges,
        Self::Probes,
    ];
}

/// A run that has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) v: u32,
    /// Unix milliseconds of this record.
    pub(super) at_ms: u64,
    /// What is under way.
    pub(super) stage: Stage,
    /// The repository or the prefix that is done; empty at a stage's begin.
    pub(super) after: String,
    /// What was done up to there.
    pub(super) report: Report,
}

impl Progress {
    pub(super) const VERSION: u32 = 1;

    pub(super) fn begin() -> Self {
        let (v, stage, after) = (Self::VERSION, Stage::Uploads, String::new());
        Self { v, at_ms: 0, stage, after, report: Report::default() }
    }
}

/// The run at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// The run's id.
    pub(super) owner: String,
    pub(super) until_ms: u64,
}
