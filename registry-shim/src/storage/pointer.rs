//! Pointers: from a blob's digest to the segments that hold its bytes.
//!
//! A pointer is written once under a generation that is never used again: the store has no
//! conditional delete, so a collector that slept must not be able to delete a pointer made anew.
//! Two pushers of one blob may each leave a generation; any of them is right.

use longshore_proto::Digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{RECORD_VERSION, Segment, Storage, StorageError, encode, layout};

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

impl Storage {
    /// The blob's pointer, whichever repository it is in; `None` when nobody pushed it.
    pub async fn pointer(&self, digest: &Digest) -> Result<Option<Pointer>, StorageError> {
        for key in self.keys(&layout::pointers(digest)).await? {
            // One that went between the listing and now is followed by the next generation.
            let Some(record) = self.read_record::<PointerRecord>(&key).await? else { continue };
            let size = record.segments.iter().map(|segment| segment.len).sum();
            if record.size != size {
                return Err(StorageError::corrupt(&key, "size is not the sum of the segments"));
            }
            let generation = key.filename().unwrap_or_default().to_owned();
            return Ok(Some(Pointer { generation, size, segments: record.segments }));
        }
        Ok(None)
    }

    /// Makes `segments` the blob's bytes, unless it has some already: then they are taken back.
    pub(super) async fn point(
        &self,
        digest: &Digest,
        segments: Vec<Segment>,
    ) -> Result<Pointer, StorageError> {
        if let Some(pointer) = self.pointer(digest).await? {
            self.discard(&segments).await;
            return Ok(pointer);
        }
        let generation = Uuid::new_v4().simple().to_string();
        let size = segments.iter().map(|segment| segment.len).sum();
        let record = PointerRecord { v: RECORD_VERSION, size, segments };
        self.create(&layout::pointer(digest, &generation), encode(&record)).await?;
        Ok(Pointer { generation, size, segments: record.segments })
    }
}
