//! What a run found and freed, by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Kinds of garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What is left of unfinished uploads, their bytes not included.
    Upload,
    /// "This repository holds the blob", where no manifest names it.
    Membership,
    /// Untagged manifests, where that is asked for.
    Manifest,
    /// Descriptors of manifests that are gone.
    Referrer,
    /// Entries of tags' histories beyond the bound.
    TagHistory,
    /// Repositories without a manifest.
    Catalog,
    /// References from blobs to repositories that do not hold them.
    ReverseReference,
    /// Pointers of blobs that nobody holds, and superfluous ones.
    Pointer,
    /// Hash states of blobs that are gone.
    States,
    /// Bytes that no pointer names.
    Segment,
    /// What projects pay for and do not hold.
    Charge,
    /// What an instance wrote to find out what the store does.
    Probe,
}

/// How much of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Objects that were deleted, or would have been.
    pub freed_objects: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Objects whose grace is not over.
    pub waiting_objects: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// It went on where another had stopped; what that had freed and noted is included.
    pub resumed: bool,
    /// By kind.
    pub kinds: BTreeMap<Kind, Tally>,
    /// Entries of the catalog and referrers that were put back.
    pub repaired: u64,
    /// Keys that could not be read: nothing was freed that they may name. At most a few are named.
    pub unreadable: Vec<String>,
}

/// Keys that a report names.
const UNREADABLE_MAX: usize = 20;

impl Kind {
    /// As metrics and `--json` call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Membership => "membership",
            Self::Manifest => "manifest",
            Self::Referrer => "referrer",
            Self::TagHistory => "tag_history",
            Self::Catalog => "catalog",
            Self::ReverseReference => "reverse_reference",
            Self::Pointer => "pointer",
            Self::States => "states",
            Self::Segment => "segment",
            Self::Charge => "charge",
            Self::Probe => "probe",
        }
    }
}

impl Report {
    /// One was deleted.
    pub fn freed(&mut self, kind: Kind, bytes: u64) {
        let tally = self.kinds.entry(kind).or_default();
        tally.freed_objects += 1;
        tally.freed_bytes += bytes;
    }

    /// One is to be deleted later.
    pub fn waits(&mut self, kind: Kind, bytes: u64) {
        let tally = self.kinds.entry(kind).or_default();
        tally.waiting_objects += 1;
        tally.waiting_bytes += bytes;
    }

    /// One cannot be read.
    pub fn cannot_read(&mut self, key: String) {
        tracing::error!(key, "cannot be read: what it may name is not collected");
        if self.unreadable.len() < UNREADABLE_MAX && !self.unreadable.contains(&key) {
            self.unreadable.push(key);
        }
    }

    /// Adds what was done in another store.
    pub fn add(&mut self, other: Self) {
        self.dry_run |= other.dry_run;
        self.resumed |= other.resumed;
        self.repaired += other.repaired;
        self.unreadable.extend(other.unreadable);
        for (kind, more) in other.kinds {
            let tally = self.kinds.entry(kind).or_default();
            tally.freed_objects += more.freed_objects;
            tally.freed_bytes += more.freed_bytes;
            tally.waiting_objects += more.waiting_objects;
            tally.waiting_bytes += more.waiting_bytes;
        }
    }

    /// Of all kinds together.
    pub fn total(&self) -> Tally {
        self.kinds.values().fold(Tally::default(), |sum, tally| Tally {
            freed_objects: sum.freed_objects + tally.freed_objects,
            freed_bytes: sum.freed_bytes + tally.freed_bytes,
            waiting_objects: sum.waiting_objects + tally.waiting_objects,
            waiting_bytes: sum.waiting_bytes + tally.waiting_bytes,
        })
    }
}
