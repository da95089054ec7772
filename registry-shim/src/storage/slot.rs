//! Slots: headroom of a project's quota that instances have leased, one numbered object a lease.
//!
//! A lease is granted by creating the number after the highest one: of two instances that looked
//! at the same moment one loses and looks again, so that grants form one sequence without a row
//! that anybody locks. Numbers are never used again, because the highest slot is never deleted;
//! else an instance that looked before a deletion could grant what another was granted since.
//!
//! Only the instance that created a slot overwrites it, and only to make it smaller.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::{Project, RECORD_VERSION, Storage, StorageError, encode, layout};

/// Slots that are read at once.
const READS_IN_FLIGHT_MAX: usize = 16;
/// A listing that is overtaken this often meets more than contention.
const LOOKS_MAX: usize = 20;

/// What one lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its place in the sequence, from 1.
    pub number: u64,
    /// Who holds it.
    pub instance: String,
    /// Bytes that its holder may still charge; never fewer than that.
    pub bytes: u64,
    /// Bytes newly granted by all slots up to this one. It never falls, so whoever counted the
    /// charges once knows what they can have grown by since.
    pub granted_total: u64,
    /// After this its holder charges nothing more. Unix milliseconds.
    pub expires_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SlotRecord {
    v: u32,
    instance: String,
    bytes: u64,
    granted_total: u64,
    expires_at_ms: u64,
}

impl Storage {
    /// All slots of the project, sorted; the last one is the highest of the sequence.
    pub async fn slots(&self, project: &Project) -> Result<Vec<Slot>, StorageError> {
        for _ in 0..LOOKS_MAX {
            let keys = self.keys(&layout::slots(project)).await?;
            let Some(highest) = keys.last().cloned() else { return Ok(Vec::new()) };
            let read: Vec<Option<Slot>> = stream::iter(keys)
                .map(|key| async move { self.slot(&key).await })
                .buffered(READS_IN_FLIGHT_MAX)
                .try_collect()
                .await?;
            // One that went away was over. If it was the highest then there is a higher one now.
            if read.last().is_some_and(Option::is_some) {
                return Ok(read.into_iter().flatten().collect());
            }
            tracing::debug!(key = %highest, "slots moved on while they were read");
        }
        let moving = "slots change faster than they can be read";
        Err(StorageError::corrupt(&layout::slots(project), moving))
    }

    async fn slot(&self, key: &object_store::path::Path) -> Result<Option<Slot>, StorageError> {
        let number = key.filename().and_then(|name| name.parse().ok());
        let number = number.ok_or_else(|| StorageError::corrupt(key, "slot has no number"))?;
        Ok(self.read_record::<SlotRecord>(key).await?.map(|record| Slot {
            number,
            instance: record.instance,
            bytes: record.bytes,
            granted_total: record.granted_total,
            expires_at_ms: record.expires_at_ms,
        }))
    }

    /// Takes the slot's number in the sequence; whether nobody else was faster.
    pub async fn create_slot(&self, project: &Project, slot: &Slot) -> Result<bool, StorageError> {
        self.create(&layout::slot(project, slot.number), record(slot)).await
    }

    /// Makes an own slot smaller.
    pub async fn shrink_slot(&self, project: &Project, slot: &Slot) -> Result<(), StorageError> {
        self.overwrite(&layout::slot(project, slot.number), record(slot)).await
    }

    /// Deletes a slot that is over and is not the highest one.
    pub async fn delete_slot(&self, project: &Project, number: u64) -> Result<(), StorageError> {
        self.delete(&layout::slot(project, number)).await.map(|_| ())
    }
}

fn record(slot: &Slot) -> bytes::Bytes {
    encode(&SlotRecord {
        v: RECORD_VERSION,
        instance: slot.instance.clone(),
        bytes: slot.bytes,
        granted_total: slot.granted_total,
        expires_at_ms: slot.expires_at_ms,
    })
}
