//! Another algorithm for bytes that have arrived: the closing request may name one that nobody had
//! announced. The bytes are read again, once: what came out is kept beside the upload, so that a
//! client that was told to come back finds it, at whatever instance.

use futures::TryStreamExt as _;
use longshore_proto::Algorithm;
use longshore_proto::piece::ChainHasher;
use tokio::sync::OwnedSemaphorePermit;

use super::progress::ProgressRecord;
use super::{Pointer, Progress, Session, Storage, StorageError, encode, layout};

impl Storage {
    /// A place among the few reads that are only for hashing.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn hashing_place(&self) -> OwnedSemaphorePermit {
        let place = self.hashing.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// The progress with the hash state of `algorithm`. Takes as long as reading all its bytes; the
    /// caller holds a [`Self::hashing_place`].
    pub async fn rehash(
        &self,
        session: &Session,
        progress: Progress,
        algorithm: Algorithm,
    ) -> Result<Progress, StorageError> {
        let key = layout::upload_rehashed(session.id, algorithm);
        if let Some(record) = self.read_record::<ProgressRecord>(&key).await? {
            let kept = record.into_progress(&key)?;
            if kept.offset() == progress.offset() && kept.segments() == progress.segments() {
                return Ok(kept);
            }
        }
        let rehashed = progress.clone().with_hasher(self.read_again(&progress, algorithm).await?);
        self.overwrite(&key, encode(&ProgressRecord::of(&rehashed))).await?;
        Ok(rehashed)
    }

    async fn read_again(
        &self,
        progress: &Progress,
        algorithm: Algorithm,
    ) -> Result<ChainHasher, StorageError> {
        let segments = progress.segments().to_vec();
        let pointer = Pointer { generation: String::new(), size: progress.offset(), segments };
        let mut hasher = ChainHasher::new(algorithm);
        let mut bytes = self.stream(&pointer, None);
        while let Some(chunk) = bytes.try_next().await? {
            hasher.update(&chunk);
        }
        Ok(hasher)
    }
}
