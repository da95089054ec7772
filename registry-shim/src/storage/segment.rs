//! Upload segments: the bytes as they arrived, written once and never moved.
//!
//! A segment that is not finished leaves nothing under its key. Buffers are bounded by
//! [`PART_BYTES`] times [`PARTS_IN_FLIGHT_MAX`] and one; of a segment that is known to be larger than
//! [`PARTS_MAX`] of these, by its own parts.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use serde::{Deserialize, Serialize};
use time::macros::format_description;
use uuid::Uuid;

use super::{Storage, StorageError, layout};

/// Bytes that are sent to the store at once: S3's smallest part.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Parts of one segment whose length is known before: S3 takes 10,000.
const PARTS_MAX: u64 = 9000;
/// Parts of one segment that the store may be taking at the same moment.
const PARTS_IN_FLIGHT_MAX: usize = 2;

/// Some of a blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Their object.
    pub key: String,
    /// How many.
    pub len: u64,
}

/// Takes the bytes of one segment.
#[derive(Debug)]
pub struct SegmentWriter {
    storage: Storage,
    key: Path,
    length: u64,
    part_bytes: usize,
    /// Until a part is full: most segments of small blobs never need more than one write.
    head: Vec<Bytes>,
    parts: Option<WriteMultipart>,
}

impl Storage {
    /// A new segment; it exists once [`SegmentWriter::finish`] returns.
    pub fn segment(&self) -> SegmentWriter {
        self.segment_of(0)
    }

    /// As [`Self::segment`], of which is known how many bytes it will have.
    pub(super) fn segment_of(&self, bytes: u64) -> SegmentWriter {
        let part_bytes = usize::try_from(bytes.div_ceil(PARTS_MAX)).unwrap_or(usize::MAX);
        let part_bytes = part_bytes.max(PART_BYTES);
        let now = i64::try_from(self.now_ms() / 1000).unwrap_or_default();
        let today = time::OffsetDateTime::from_unix_timestamp(now)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
            .format(format_description!("[year][month][day]"))
            .expect("the format names only parts of a date");
        let key = layout::data(Uuid::new_v4(), &today);
        let storage = self.clone();
        SegmentWriter { storage, key, length: 0, part_bytes, head: Vec::new(), parts: None }
    }

    /// Takes back segments that no pointer names; failures leave garbage for the collector.
    pub async fn discard(&self, segments: &[Segment]) {
        for segment in segments {
            if let Err(error) = self.delete(&Path::from(segment.key.as_str())).await {
                tracing::debug!(%error, "segment stays for the collector");
            }
        }
    }
}

impl SegmentWriter {
    /// Adds bytes; waits while the store is slower than the sender.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.length += bytes.len() as u64;
        if let Some(parts) = &mut self.parts {
            parts.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await?;
            parts.put(bytes);
            return Ok(());
        }
        self.head.push(bytes);
        if self.length < self.part_bytes as u64 {
            return Ok(());
        }
        let upload = self.storage.store.put_multipart(&self.key).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, self.part_bytes);
        for bytes in self.head.drain(..) {
            parts.put(bytes);
        }
        self.parts = Some(parts);
        Ok(())
    }

    /// Bytes so far.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// The bytes of a writer that has sent none yet, as it is while they are few.
    pub(super) fn into_unsent(self) -> Vec<Bytes> {
        debug_assert!(self.parts.is_none(), "a part was sent");
        self.head
    }

    /// Makes the segment exist; `None` when it has no bytes.
    pub async fn finish(self) -> Result<Option<Segment>, StorageError> {
        if self.length == 0 {
            return Ok(None);
        }
        match self.parts {
            Some(parts) => {
                parts.finish().await?;
            }
            None => {
                // The key is this writer's own: a retry of the store's client must not be refused.
                let payload = PutPayload::from_iter(self.head);
                self.storage.store.put(&self.key, payload).await?;
            }
        }
        Ok(Some(Segment { key: self.key.to_string(), len: self.length }))
    }

    /// Gives up; what the store took already is dropped.
    pub async fn abort(self) {
        if let Some(parts) = self.parts
            && let Err(error) = parts.abort().await
        {
            tracing::debug!(%error, "unfinished segment stays for the store's own expiry");
        }
    }
}
