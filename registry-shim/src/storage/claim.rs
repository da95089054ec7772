//! Claims: what a writer asks before it relies on something that the collector may take.
//!
//! Memberships and manifests lie under keys that are written again, so the collector announces
//! what it means to take: a tombstone, [`GRACE_MIN_MS`] before at the earliest, and a window while
//! it works on a repository. A claim takes the tombstone away. Who claimed something has it for the
//! shortest grace, whatever the collector does; the proof is in [`crate::gc`]. Pointers need no
//! claim: a generation with a tombstone is never used again.

use std::time::Duration;

use longshore_proto::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{RECORD_VERSION, Storage, StorageError, encode, layout};

/// Least time between a tombstone and the deletion: an hour.
pub const GRACE_MIN_MS: u64 = 60 * 60 * 1000;
/// How long a request may rely on what it claimed or saw: half of it, the rest is for clocks and
/// for the minute that caches keep what they saw.
const RELY_MS: u64 = GRACE_MIN_MS / 2;
/// The most by which two clocks may differ.
pub const CLOCK_SKEW_MS: u64 = 60 * 1000;
/// How long a claim waits for the collector to leave the repository: well within the 30 s in which
/// clients want an answer.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Between two looks.
const WAIT_STEP: Duration = Duration::from_millis(250);

/// Something in a repository whose key may be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// A blob's membership.
    Blob(Digest),
    /// A manifest.
    Manifest(Digest),
}

/// "A collector works on this repository."
#[derive(Serialize, Deserialize)]
struct Window {
    v: u32,
    repository: RepositoryName,
    until_ms: u64,
}

impl Storage {
    /// Makes sure that the collector leaves the item alone for the shortest grace. What is there is
    /// to be read or written after this, not before.
    ///
    /// # Errors
    /// [`StorageError::Contended`] when the collector does not leave the repository in time.
    pub async fn claim(&self, repository: &RepositoryName, item: Item) -> Result<(), StorageError> {
        let tombstone = layout::item_tombstone(repository, item);
        if !self.exists(&tombstone).await? {
            return Ok(());
        }
        self.delete(&tombstone).await?;
        // A collector that saw the tombstone has its window open; one that opens it later sees none.
        for _ in 0..WAIT_MAX.as_millis() / WAIT_STEP.as_millis() {
            if !self.is_collecting(repository).await? {
                return Ok(());
            }
            self.clock.sleep(WAIT_STEP).await;
        }
        Err(StorageError::Contended)
    }

    /// Whether the repository holds the blob, and will for the shortest grace.
    pub async fn claim_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        self.claim(repository, Item::Blob(*digest)).await?;
        self.is_member(repository, digest).await
    }

    /// Unix milliseconds, to give to [`Self::still_holds`].
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Whether what was claimed since `since_ms` may still be relied on.
    ///
    /// # Errors
    /// [`StorageError::Contended`] after a pause that may have been longer than a grace.
    pub fn still_holds(&self, since_ms: u64) -> Result<(), StorageError> {
        let passed = self.clock.now_ms().saturating_sub(since_ms);
        if passed < RELY_MS { Ok(()) } else { Err(StorageError::Contended) }
    }

    /// For the collector `id`: says that it deletes in the repository until `until_ms`, and no
    /// longer unless it has said so again before.
    pub async fn open_window(
        &self,
        id: Uuid,
        repository: &RepositoryName,
        until_ms: u64,
    ) -> Result<(), StorageError> {
        let window = Window { v: RECORD_VERSION, repository: repository.clone(), until_ms };
        self.overwrite(&layout::window(id), encode(&window)).await
    }

    /// The collector has left the repository: every deletion that it began has ended.
    pub async fn close_window(&self, id: Uuid) -> Result<(), StorageError> {
        self.delete(&layout::window(id)).await.map(|_| ())
    }

    async fn is_collecting(&self, repository: &RepositoryName) -> Result<bool, StorageError> {
        for key in self.keys(&layout::windows()).await? {
            let Some(window) = self.read_record::<Window>(&key).await? else { continue };
            let open = self.clock.now_ms() < window.until_ms.saturating_add(CLOCK_SKEW_MS);
            if open && window.repository == *repository {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use longshore_proto::Algorithm;
    use longshore_proto::sign::SigningKey;
    use object_store::memory::InMemory;

    use super::*;

    fn storage() -> (Storage, RepositoryName, Digest) {
        let key = Arc::new(SigningKey::generate().0);
        let storage = Storage::new(Arc::new(InMemory::new()), key);
        (storage, "a/b".parse().unwrap(), Digest::of(Algorithm::Sha256, b"x"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_takes_the_tombstone_and_waits_for_the_collector() {
        let (storage, repository, digest) = storage();
        let item = Item::Blob(digest);
        let tombstone = layout::item_tombstone(&repository, item);
        let id = Uuid::new_v4();
        let until_ms = storage.now_ms() + 60_000;
        storage.overwrite(&tombstone, Bytes::new()).await.unwrap();
        storage.open_window(id, &repository, until_ms).await.unwrap();
        let leaving = async {
            tokio::time::sleep(2 * WAIT_STEP).await;
            storage.close_window(id).await.unwrap();
        };
        let (claimed, ()) = tokio::join!(storage.claim(&repository, item), leaving);
        claimed.unwrap();
        assert!(!storage.exists(&tombstone).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_gives_up_in_time_and_knows_a_dead_collector() {
        let (storage, repository, digest) = storage();
        let item = Item::Manifest(digest);
        let tombstone = layout::item_tombstone(&repository, item);
        let until_ms = storage.now_ms() + 60_000;
        storage.open_window(Uuid::new_v4(), &repository, until_ms).await.unwrap();
        // Whatever no collector announced is claimed at once, and so is everything elsewhere.
        storage.claim(&repository, item).await.unwrap();
        storage.overwrite(&tombstone, Bytes::new()).await.unwrap();
        let late = storage.claim(&repository, item).await;
        assert!(matches!(late, Err(StorageError::Contended)), "{late:?}");

        let dead_ms = storage.now_ms() - CLOCK_SKEW_MS - 1;
        let (storage, repository, _) = self::storage();
        storage.open_window(Uuid::new_v4(), &repository, dead_ms).await.unwrap();
        storage.overwrite(&tombstone, Bytes::new()).await.unwrap();
        storage.claim(&repository, item).await.unwrap();
    }

    #[tokio::test]
    async fn a_tombstoned_pointer_is_never_used_again() {
        let (storage, repository, digest) = storage();
        let content = Bytes::from_static(b"x");
        let push = async || {
            let mut appender = storage.append(crate::storage::Progress::new(Algorithm::Sha256));
            appender.write(content.clone()).await.unwrap();
            let progress = appender.finish().await.unwrap();
            storage.commit(&repository, None, progress, &digest).await.unwrap()
        };
        let first = push().await;
        assert_eq!(push().await, first);
        let tombstone = layout::pointer_tombstones(&digest).join(first.generation.as_str());
        storage.overwrite(&tombstone, Bytes::new()).await.unwrap();
        let elsewhere: RepositoryName = "c".parse().unwrap();
        assert!(!storage.add_member(&elsewhere, &digest, &first).await.unwrap());
        assert!(!storage.is_member(&elsewhere, &digest).await.unwrap());
        let second = push().await;
        assert_ne!(second.generation, first.generation);
        // Readers leave the dying one, too, and the new one can be mounted.
        assert_eq!(storage.pointer(&digest).await.unwrap().unwrap(), second);
        assert!(storage.add_member(&elsewhere, &digest, &second).await.unwrap());
    }
}
