//! The store as requests see it: with what was read before kept in memory.
//!
//! Every write goes through here so that it also drops what it contradicts. Another instance's
//! write is seen once the age is over; while the store fails, what is kept is used up to a limit,
//! and a tag then says that it may have moved. Nothing here asks whether the caller may: that was
//! asked before. How one cache works is in `kept`.

mod kept;
mod redirect;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use longshore_proto::piece::{PieceList, piece_bytes_for};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{PieceListStatement, SigningKey};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, RepositoryName, Tag};
use tokio_util::sync::CancellationToken;

use crate::config::Cache as CacheConfig;
use crate::storage::{Composed, Pointer, Storage, StorageError, StoredManifest, TagRecord};
use kept::Kept;
pub use kept::{Ages, Found};
use redirect::Redirects;

type InRepository = (RepositoryName, Digest);

/// A store with memory.
#[derive(Clone, Debug)]
pub struct CachedStorage {
    storage: Storage,
    key: Arc<SigningKey>,
    manifests: Kept<InRepository, StoredManifest>,
    pointers: Kept<Digest, Pointer>,
    members: Kept<InRepository, ()>,
    tags: Kept<(RepositoryName, Tag), TagRecord>,
    lists: Kept<Digest, rpc::PieceList>,
    inline: Kept<Digest, Bytes>,
    redirects: Redirects,
}

impl CachedStorage {
    /// Empty caches over `storage`; `key` signs piece lists.
    pub fn new(storage: Storage, key: Arc<SigningKey>, config: &CacheConfig) -> Self {
        let share = |sixteenths: u64| config.bytes_max / 16 * sixteenths;
        let stale_max = Duration::from_secs(config.stale_max_s);
        let ages = |fresh| Ages { fresh, stale_max };
        let kept = ages(Duration::from_secs(config.fresh_s));
        let tags = ages(Duration::from_millis(config.tag_fresh_ms));
        Self {
            storage,
            key,
            manifests: Kept::new(share(4), kept, |manifest| manifest.content.len()),
            pointers: Kept::new(share(2), kept, |pointer| pointer.segments.len() * 96),
            members: Kept::new(share(1), kept, |()| 0),
            tags: Kept::new(share(1), tags, |record| record.media_type.len() + 64),
            lists: Kept::new(share(4), kept, |list| list.states.len()),
            inline: Kept::new(share(3), kept, Bytes::len),
            redirects: Redirects::new(share(1)),
        }
    }

    /// The store itself, for what is not cached: uploads, lists, bytes.
    pub const fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The manifest, if this repository has it.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<StoredManifest>>, Arc<StorageError>> {
        let key = (repository.clone(), *digest);
        let read = || {
            let (storage, (repository, digest)) = (self.storage.clone(), key.clone());
            async move { storage.manifest(&repository, &digest).await }
        };
        Ok(self.manifests.get(&key, read).await?.map(|found| found.value))
    }

    /// What the tag names, as fresh as `cache.tag_fresh_ms` says while the store answers.
    pub async fn tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Found<TagRecord>>, Arc<StorageError>> {
        let key = (repository.clone(), tag.clone());
        let read = || {
            let (storage, (repository, tag)) = (self.storage.clone(), key.clone());
            async move { storage.tag(&repository, &tag).await }
        };
        self.tags.get(&key, read).await
    }

    /// How long a tag counts without being asked for again.
    pub fn tag_fresh(&self) -> Duration {
        self.tags.ages().fresh
    }

    /// The blob's pointer, if this repository holds the blob. What was claimed at the read is kept
    /// for less time than the collector leaves it alone.
    pub async fn member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<Pointer>>, Arc<StorageError>> {
        match self.membership(repository, digest).await? {
            Some(_) => self.pointer(digest).await,
            None => Ok(None),
        }
    }

    /// As [`Self::member`], for a write that names the blob: what was read before the store failed
    /// does not count, since the collector may have worked meanwhile.
    pub async fn member_to_name(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<Pointer>>, Arc<StorageError>> {
        let is_member = match self.membership(repository, digest).await? {
            Some(found) if found.stale => self.storage.claim_member(repository, digest).await?,
            found => found.is_some(),
        };
        if is_member { self.pointer(digest).await } else { Ok(None) }
    }

    async fn membership(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Found<()>>, Arc<StorageError>> {
        let key = (repository.clone(), *digest);
        let read = || {
            let (storage, (repository, digest)) = (self.storage.clone(), key.clone());
            async move { Ok(storage.claim_member(&repository, &digest).await?.then_some(())) }
        };
        self.members.get(&key, read).await
    }

    /// The blob's pointer, whichever repository holds it.
    pub async fn pointer(
        &self,
        digest: &Digest,
    ) -> Result<Option<Arc<Pointer>>, Arc<StorageError>> {
        let read = || {
            let (storage, digest) = (self.storage.clone(), *digest);
            async move { storage.pointer(&digest).await }
        };
        Ok(self.pointers.get(digest, read).await?.map(|found| found.value))
    }

    /// The signed list of a blob, its pieces as long as everyone's for that size.
    pub async fn piece_list(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<Arc<rpc::PieceList>, Arc<StorageError>> {
        let read = || {
            let (storage, key) = (self.storage.clone(), self.key.clone());
            let (digest, pointer) = (*digest, pointer.clone());
            async move {
                let fine = storage.piece_list(&digest, &pointer).await?;
                let length = piece_bytes_for(fine.size());
                let list = PieceList::coarsen(digest, fine.size(), length, fine.states())
                    .expect("the usual lengths are multiples of the kept interval");
                let signature = key.sign(&PieceListStatement { list: &list, provisional: false });
                Ok(Some(SignedPieceList { list, provisional: false, signature }.to_wire()))
            }
        };
        let list = self.lists.get(digest, read).await?;
        Ok(list.expect("a list is made where none is kept").value)
    }

    /// All bytes of a small blob; the caller has looked at `pointer.size`.
    pub async fn inline(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<Bytes, Arc<StorageError>> {
        let read = || {
            let (storage, pointer) = (self.storage.clone(), pointer.clone());
            async move { storage.read_whole(&pointer).await.map(Some) }
        };
        let bytes = self.inline.get(digest, read).await?;
        Ok((*bytes.expect("reading gives bytes").value).clone())
    }

    /// Where the store itself serves the blob, signed; `None` where the registry has to.
    pub async fn redirect(&self, digest: &Digest, pointer: &Pointer) -> Option<HeaderValue> {
        self.redirects.get(&self.storage, digest, pointer).await
    }

    /// As the storage does it; who reads the blob from now on is sent to its one segment.
    pub(crate) async fn compose(
        &self,
        digest: &Digest,
        stop: &CancellationToken,
    ) -> Result<Composed, StorageError> {
        let composed = self.storage.compose(digest, stop).await;
        // Also after a failure, and where another instance did it.
        self.pointers.invalidate(digest);
        composed
    }

    /// Keeps a manifest.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: StoredManifest,
    ) -> Result<(), StorageError> {
        self.storage.put_manifest(repository, digest, &manifest).await?;
        self.manifests.insert((repository.clone(), *digest), manifest);
        Ok(())
    }

    /// Moves a tag.
    pub async fn put_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), StorageError> {
        let written = self.storage.put_tag(repository, tag, &record).await;
        // Also after a failure: the store may have taken it all the same.
        self.tags.invalidate(&(repository.clone(), tag.clone()));
        written
    }

    /// Renews the record of a tag that did not move.
    pub async fn touch_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), StorageError> {
        let written = self.storage.touch_tag(repository, tag, &record).await;
        self.tags.invalidate(&(repository.clone(), tag.clone()));
        written
    }

    /// Deletes a tag; whether it was there.
    pub async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StorageError> {
        let deleted = self.storage.delete_tag(repository, tag).await;
        self.tags.invalidate(&(repository.clone(), tag.clone()));
        deleted
    }

    /// Deletes a manifest; whether it was there.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let deleted = self.storage.delete_manifest(repository, digest).await;
        self.manifests.invalidate(&(repository.clone(), *digest));
        deleted
    }

    /// Takes a blob out of a repository; whether it was in.
    pub async fn remove_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let removed = self.storage.remove_member(repository, digest).await;
        self.members.invalidate(&(repository.clone(), *digest));
        removed
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;
    use object_store::memory::InMemory;

    use super::*;

    fn cached() -> CachedStorage {
        let key = Arc::new(SigningKey::generate().0);
        let storage = Storage::new(Arc::new(InMemory::new()), key.clone());
        CachedStorage::new(storage, key, &CacheConfig::default())
    }

    #[tokio::test]
    async fn an_absence_is_never_kept() {
        let cached = cached();
        let (repository, digest) = ("a".parse().unwrap(), Digest::of(Algorithm::Sha256, b"m"));
        assert_eq!(cached.manifest(&repository, &digest).await.unwrap(), None);
        let manifest = StoredManifest { media_type: "t".into(), content: Bytes::from_static(b"m") };
        cached.storage().put_manifest(&repository, &digest, &manifest).await.unwrap();
        let found = cached.manifest(&repository, &digest).await.unwrap();
        assert_eq!(found.as_deref(), Some(&manifest));
    }

    #[tokio::test]
    async fn a_moved_tag_is_seen_at_once() {
        let cached = cached();
        let (repository, tag) = ("a".parse().unwrap(), "t".parse().unwrap());
        for content in [b"1", b"2"] {
            let digest = Digest::of(Algorithm::Sha256, content);
            let record = TagRecord::new(digest, "t".into(), 1, 0, "someone".into());
            cached.put_tag(&repository, &tag, record.clone()).await.unwrap();
            let found = cached.tag(&repository, &tag).await.unwrap().unwrap();
            assert_eq!((&*found, found.stale), (&record, false));
        }
    }
}
