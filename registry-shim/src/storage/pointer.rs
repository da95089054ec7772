//! Pointers: from a blob's digest to the segments that hold its bytes.
//!
//! A pointer is written once under a generation that is never used again: the store has no
//! conditional delete, so a collector that slept must not be able to delete a pointer made anew.
//! Two pushers of one blob may each leave a generation, and so may [`super::compose`]; any of them is
//! right, and the first in order of keys is the one that stays.

use futures::TryStreamExt as _;
use longshore_proto::{Digest, RepositoryName};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use time::macros::format_description;
use uuid::Uuid;

use super::{RECORD_VERSION, Segment, Storage, StorageError, encode, layout};

/// From the start of the day of an upload's first segment until its pointer is written: that day,
/// the day that an upload may take, and half a day for the last request. The collector takes
/// segments without a pointer half a day later.
pub(crate) const COMMIT_MS: u64 = (24 + 24 + 12) * 60 * 60 * 1000;
/// How often a commit looks for a pointer again that the collector took before its eyes.
const ATTACH_ATTEMPTS: usize = 4;

/// Where a blob's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Which generation this is.
    pub generation: String,
    /// Bytes of the blob: the sum of its segments.
    pub size: u64,
    /// In order.
    pub segments: Vec<Segment>,
}

#[derive(Serialize, Deserialize)]
struct PointerRecord {
    v: u32,
    size: u64,
    segments: Vec<Segment>,
}

impl Pointer {
    /// Whether it was written while nobody could take its segments for an unfinished upload's.
    pub(crate) fn is_in_time(&self, written_ms: u64) -> bool {
        let oldest = self.segments.iter().filter_map(day_of).min();
        oldest.is_none_or(|day_ms| written_ms < day_ms.saturating_add(COMMIT_MS))
    }
}

impl Storage {
    /// The blob's pointer, whichever repository it is in; `None` when nobody pushed it.
    pub async fn pointer(&self, digest: &Digest) -> Result<Option<Pointer>, StorageError> {
        let mut keys = self.keys(&layout::pointers(digest)).await?;
        if keys.len() > 1 {
            // One of them is on its way out: who reads it longest shall not be cut off.
            let dying = self.keys(&layout::pointer_tombstones(digest)).await?;
            let dies = |key: &Path| dying.iter().any(|tomb| tomb.filename() == key.filename());
            keys.sort_by_key(dies);
        }
        for key in keys {
            // One that went between the listing and now is followed by the next generation.
            if let Some(pointer) = self.read_pointer(&key).await? {
                return Ok(Some(pointer));
            }
        }
        Ok(None)
    }

    pub(super) async fn read_pointer(&self, key: &Path) -> Result<Option<Pointer>, StorageError> {
        let Some(record) = self.read_record::<PointerRecord>(key).await? else { return Ok(None) };
        let size = record.segments.iter().map(|segment| segment.len).sum();
        if record.size != size {
            return Err(StorageError::corrupt(key, "size is not the sum of the segments"));
        }
        let generation = key.filename().unwrap_or_default().to_owned();
        Ok(Some(Pointer { generation, size, segments: record.segments }))
    }

    /// Makes `segments` the blob's bytes, unless it has some already, and the blob a member of the
    /// repository. Segments that are not needed are taken back, but only then.
    pub(super) async fn attach(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        mut segments: Vec<Segment>,
    ) -> Result<Pointer, StorageError> {
        let mut created = false;
        for _ in 0..ATTACH_ATTEMPTS {
            let usable = self.usable_pointer(digest).await?;
            let pointer = match usable {
                Some(pointer) => pointer,
                None => {
                    created = true;
                    let generation = Uuid::new_v4().simple().to_string();
                    self.create_generation(digest, generation, segments.clone()).await?
                }
            };
            if self.add_member(repository, digest, &pointer).await? {
                if !created {
                    let named = |segment: &Segment| pointer.segments.contains(segment);
                    segments.retain(|segment| !named(segment));
                    self.discard(&segments).await;
                }
                return Ok(pointer);
            }
        }
        Err(StorageError::Contended)
    }

    /// Whether a generation is there and will stay while something refers to it. The tombstone is
    /// looked for first: the collector takes it away after the pointer.
    pub(super) async fn is_usable(
        &self,
        digest: &Digest,
        generation: &str,
    ) -> Result<bool, StorageError> {
        if self.exists(&layout::pointer_tombstones(digest).join(generation)).await? {
            return Ok(false);
        }
        self.exists(&layout::pointer(digest, generation)).await
    }

    /// A pointer that a new member may rely on.
    async fn usable_pointer(&self, digest: &Digest) -> Result<Option<Pointer>, StorageError> {
        let generations: Vec<ObjectMeta> =
            self.store.list(Some(&layout::pointers(digest))).try_collect().await?;
        for object in generations {
            let Some(generation) = object.location.filename() else { continue };
            if self.exists(&layout::pointer_tombstones(digest).join(generation)).await? {
                continue;
            }
            let Some(pointer) = self.read_pointer(&object.location).await? else { continue };
            let written_ms = u64::try_from(object.last_modified.timestamp_millis());
            if pointer.is_in_time(written_ms.unwrap_or_default()) {
                return Ok(Some(pointer));
            }
        }
        Ok(None)
    }

    /// Writes a generation of the blob's pointer. It is the caller's alone, and new.
    pub(super) async fn create_generation(
        &self,
        digest: &Digest,
        generation: String,
        segments: Vec<Segment>,
    ) -> Result<Pointer, StorageError> {
        let size = segments.iter().map(|segment| segment.len).sum();
        let pointer = Pointer { generation, size, segments };
        let in_time = |pointer: &Pointer| pointer.is_in_time(self.now_ms());
        if !in_time(&pointer) {
            return Err(StorageError::Contended);
        }
        let record = PointerRecord { v: RECORD_VERSION, size, segments: pointer.segments.clone() };
        let key = layout::pointer(digest, &pointer.generation);
        // A generation is one call's own: there is nothing to overwrite, and a retry is the same.
        self.overwrite(&key, encode(&record)).await?;
        // After a pause of days the segments may be gone, and nobody may rely on them.
        if !in_time(&pointer) {
            self.delete(&key).await?;
            return Err(StorageError::Contended);
        }
        Ok(pointer)
    }
}

/// The start of the day in whose directory the segment lies, in Unix milliseconds.
fn day_of(segment: &Segment) -> Option<u64> {
    let day = segment.key.split('/').nth(2)?;
    let date = time::Date::parse(day, format_description!("[year][month][day]")).ok()?;
    u64::try_from(date.midnight().assume_utc().unix_timestamp()).ok().map(|s| s * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_that_comes_days_after_its_segments_is_void() {
        let segment = |key: &str| Segment { key: key.into(), len: 1 };
        let pointer = |segments| Pointer { generation: String::new(), size: 1, segments };
        // 2023-11-14T00:00:00Z
        let day = 1_699_920_000_000;
        let written = pointer(vec![segment("data/ab/20231115/x"), segment("data/ab/20231114/y")]);
        assert!(written.is_in_time(day + COMMIT_MS - 1));
        assert!(!written.is_in_time(day + COMMIT_MS));
        assert!(pointer(vec![]).is_in_time(day));
    }
}
