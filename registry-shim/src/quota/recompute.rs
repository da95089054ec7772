//! Compares a project's charges with what its repositories hold, and repairs what is missing.
//!
//! For a project whose content is older than its quota, and for an operator who doubts. A missing
//! charge is added, even beyond the limit: the bytes are there. A charge that nothing holds is
//! reported and left: a push under way has one before it has anything else, and only the collector
//! knows when that is over. Content filled from an upstream looks like any other here.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt as _;
use serde::Serialize;

use super::bid::Chain;
use crate::registry::now_ms;
use crate::storage::{Charge, Holding, Project, Slot, Storage, StorageError};

/// Slots that others took first before this gives up.
const BIDS_MAX: usize = 100;

/// What a recomputation found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recomputed {
    /// `team`
    pub project: String,
    /// Bytes that the charges say now.
    pub used_bytes: u64,
    /// Charges now.
    pub charges: u64,
    /// Charges that were missing.
    pub added: u64,
    /// Their bytes.
    pub added_bytes: u64,
    /// Charges that no repository of the project holds: the collector's, or of a push under way.
    pub unheld: u64,
    /// Their bytes.
    pub unheld_bytes: u64,
}

impl Recomputed {
    /// Nothing found yet.
    pub fn of(project: &Project) -> Self {
        Self { project: project.to_string(), ..Self::default() }
    }

    /// Adds what was found in another region's store.
    pub fn add(&mut self, other: &Self) {
        self.used_bytes += other.used_bytes;
        self.charges += other.charges;
        self.added += other.added;
        self.added_bytes += other.added_bytes;
        self.unheld += other.unheld;
        self.unheld_bytes += other.unheld_bytes;
    }
}

/// Recomputes one project. Safe beside pushes and collections.
///
/// # Errors
/// When the store cannot be read or written; what was added stays.
pub async fn recompute(storage: &Storage, project: &Project) -> Result<Recomputed, StorageError> {
    // Members before charges: a member that is seen was charged before, unless it is missing.
    let add = |mut held: HashMap<_, _>, holding: Holding| async move {
        held.entry(holding.digest).or_insert(holding);
        Ok(held)
    };
    let held = storage.holdings(project).try_fold(HashMap::new(), add).await?;
    let charges: Vec<Charge> = storage.charges(project).try_collect().await?;
    let charged: HashSet<_> = charges.iter().map(|charge| charge.digest).collect();

    let mut missing = Vec::new();
    for holding in held.values().filter(|holding| !charged.contains(&holding.digest)) {
        if let Some(size) = storage.size_of(holding).await? {
            missing.push(Charge { digest: holding.digest, size });
        }
    }
    let missing_bytes = missing.iter().map(|charge| charge.size).sum();
    if !missing.is_empty() {
        announce(storage, project, missing_bytes).await?;
    }
    let (mut added, mut added_bytes) = (0, 0);
    for charge in &missing {
        if storage.create_charge(project, charge).await? {
            added += 1;
            added_bytes += charge.size;
        }
    }
    let unheld = charges.iter().filter(|charge| !held.contains_key(&charge.digest));
    let (unheld, unheld_bytes) =
        unheld.fold((0, 0), |(count, bytes), charge| (count + 1, bytes + charge.size));
    Ok(Recomputed {
        project: project.to_string(),
        used_bytes: charges.iter().map(|charge| charge.size).sum::<u64>() + added_bytes,
        charges: charges.len() as u64 + added,
        added,
        added_bytes,
        unheld,
        unheld_bytes,
    })
}

/// Tells every instance, through the sequence of slots, that usage grows without a lease: what they
/// counted before then no longer proves room.
async fn announce(storage: &Storage, project: &Project, bytes: u64) -> Result<(), StorageError> {
    for _ in 0..BIDS_MAX {
        let chain = Chain::of(&storage.slots(project).await?);
        let slot = Slot {
            number: chain.number + 1,
            instance: "recompute".to_owned(),
            bytes: 0,
            granted_total: chain.granted_total.saturating_add(bytes),
            expires_at_ms: now_ms(),
        };
        if storage.create_slot(project, &slot).await? {
            return Ok(());
        }
    }
    tracing::warn!(%project, "instances learn of added charges by their next count only");
    Ok(())
}
