//! One object out of a blob's segments, so that clients can be sent to the store for it.
//!
//! A blob that came in several requests lies in as many segments. They are copied into one new
//! segment, verified on the way, and a generation of the blob's pointer names only that one. Its
//! name sorts before those that pushes give: readers take the first, and the collector leaves the
//! first and takes the others as it takes whatever is superfluous, long after the last reader of an
//! old pointer. So nothing is deleted here but what this call wrote and nobody has seen, and
//! whoever dies in between leaves a segment, a generation or a claim for the collector. The claim
//! only saves work: two who compose one blob at once leave two generations, and both are right.

use std::time::Duration;

use futures::TryStreamExt as _;
use longshore_proto::Digest;
use longshore_proto::piece::ChainHasher;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CLOCK_SKEW_MS, Pointer, RECORD_VERSION, Segment, SegmentWriter, Storage, StorageError, encode,
    layout,
};

/// The store moves at least so many bytes in a millisecond, or the composing is given up: 4 MiB/s.
const BYTES_PER_MS_MIN: u64 = 4 * 1024;
/// And this for everything that does not depend on the size.
const TIME_MS_MIN: u64 = 5 * 60 * 1000;
/// A larger blob stays as it is: a segment would need parts that are too large for memory.
const BYTES_MAX: u64 = 128 * 1024 * 1024 * 1024;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Composed {
    /// The blob lies in one segment of so many bytes.
    Done(u64),
    /// It did before.
    Needless,
    /// Nobody holds the blob any more, or it is on its way out.
    Gone,
    /// Another instance is at it.
    Elsewhere,
    /// The store is failed over, and has other things to do.
    NotNow,
    /// It took too long, or was told to end: the blob is as it was.
    Stopped,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    v: u32,
    owner: String,
    until_ms: u64,
}

impl Storage {
    /// Whether clients are sent to the store for blobs, and could be for this one if it were
    /// composed.
    pub fn is_composable(&self, pointer: &Pointer) -> bool {
        pointer.segments.len() > 1 && pointer.size <= BYTES_MAX && self.redirects()
    }

    /// Makes one segment of the blob's several. Takes as long as reading and writing its bytes, and
    /// ends early when `stop` is cancelled.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the segments do not hash to the digest, and whatever the store
    /// does; the blob is as it was.
    pub async fn compose(
        &self,
        digest: &Digest,
        stop: &CancellationToken,
    ) -> Result<Composed, StorageError> {
        if !self.state().is_primary() {
            return Ok(Composed::NotNow);
        }
        let pointer = match self.to_compose(digest).await? {
            Ok(pointer) => pointer,
            Err(ended) => return Ok(ended),
        };
        let time_ms = TIME_MS_MIN + pointer.size / BYTES_PER_MS_MIN;
        let Some(claim) = self.claim_composing(digest, time_ms).await? else {
            return Ok(Composed::Elsewhere);
        };
        let composed = self.compose_claimed(digest, &pointer, time_ms, stop).await;
        let released = self.delete(&claim).await;
        if let Err(error) = released {
            tracing::debug!(%error, "claim stays until it lapses");
        }
        composed
    }

    async fn compose_claimed(
        &self,
        digest: &Digest,
        pointer: &Pointer,
        time_ms: u64,
        stop: &CancellationToken,
    ) -> Result<Composed, StorageError> {
        let mut writer = self.segment_of(pointer.size);
        let copy = self.copy_segments(digest, pointer, &mut writer);
        let copy = tokio::time::timeout(Duration::from_millis(time_ms), copy);
        match stop.run_until_cancelled(copy).await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => {
                writer.abort().await;
                return Err(error);
            }
            Some(Err(_)) | None => {
                writer.abort().await;
                return Ok(Composed::Stopped);
            }
        }
        let segments: Vec<Segment> = writer.finish().await?.into_iter().collect();
        // It took a while: somebody may have done the same, or deleted the blob.
        match self.to_compose(digest).await {
            Ok(Ok(_)) => {}
            other => {
                self.discard(&segments).await;
                return other.map(|ended| ended.err().unwrap_or(Composed::Gone));
            }
        }
        // From here on the segment may be named, whatever the store says.
        let generation = layout::composed_generation(Uuid::new_v4());
        self.create_generation(digest, generation, segments).await?;
        Ok(Composed::Done(pointer.size))
    }

    /// The blob's pointer, where it is worth composing.
    async fn to_compose(&self, digest: &Digest) -> Result<Result<Pointer, Composed>, StorageError> {
        let Some(pointer) = self.pointer(digest).await? else { return Ok(Err(Composed::Gone)) };
        if pointer.segments.len() <= 1 {
            return Ok(Err(Composed::Needless));
        }
        let stays = self.is_usable(digest, &pointer.generation).await?
            && self.is_referenced(digest).await?;
        Ok(if stays { Ok(pointer) } else { Err(Composed::Gone) })
    }

    async fn copy_segments(
        &self,
        digest: &Digest,
        pointer: &Pointer,
        writer: &mut SegmentWriter,
    ) -> Result<(), StorageError> {
        let mut hasher = ChainHasher::new(digest.algorithm());
        let mut bytes = self.stream(pointer, None);
        while let Some(chunk) = bytes.try_next().await? {
            hasher.update(&chunk);
            writer.write(chunk).await?;
        }
        if hasher.finish().digest == *digest {
            return Ok(());
        }
        let key = layout::pointer(digest, &pointer.generation);
        Err(StorageError::corrupt(&key, "segments do not hash to the digest"))
    }

    /// The claim's key, unless another one stands.
    async fn claim_composing(
        &self,
        digest: &Digest,
        time_ms: u64,
    ) -> Result<Option<Path>, StorageError> {
        let key = layout::composing(digest);
        let found = match self.read_record::<Claim>(&key).await {
            Err(StorageError::Corrupt { .. }) => None,
            found => found?,
        };
        let now_ms = self.now_ms();
        let stands = |claim: &Claim| now_ms < claim.until_ms.saturating_add(CLOCK_SKEW_MS);
        if found.is_some_and(|claim| stands(&claim)) {
            return Ok(None);
        }
        let owner = Uuid::new_v4().simple().to_string();
        let until_ms = now_ms.saturating_add(time_ms);
        let claim = encode(&Claim { v: RECORD_VERSION, owner, until_ms });
        self.overwrite(&key, claim.clone()).await?;
        // Of two who found none, the one that was later.
        Ok((self.read(&key).await? == Some(claim)).then_some(key))
    }
}
