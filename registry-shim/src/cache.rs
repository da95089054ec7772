//! The store as requests see it: with what was read before kept in memory.
//!
//! Every cache is bounded in bytes and in age, concurrent misses of one key are one read, and
//! every write goes through here so that it also drops what it contradicts. Another instance's
//! write is seen once the age is over. Nothing here asks whether the caller may: that was asked
//! before. Absence is never kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_proto::piece::{PieceList, piece_bytes_for};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{PieceListStatement, SigningKey};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, RepositoryName, Tag};
use moka::future::Cache;

use crate::storage::{Pointer, Storage, StorageError, StoredManifest, TagRecord};

/// How long a tag's answer may be used without asking again.
pub const TAG_FRESH: Duration = Duration::from_secs(2);
/// How long another instance's deletion may stay unseen.
const KEPT: Duration = Duration::from_secs(60);
const MANIFEST_CACHE_BYTES: u64 = 32 * 1024 * 1024;
const POINTER_CACHE_BYTES: u64 = 16 * 1024 * 1024;
const MEMBER_CACHE_BYTES: u64 = 8 * 1024 * 1024;
const TAG_CACHE_BYTES: u64 = 8 * 1024 * 1024;
const LIST_CACHE_BYTES: u64 = 32 * 1024 * 1024;
const INLINE_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// What an entry costs beside its own bytes: keys, hashes, the cache's lists.
const ENTRY_BYTES: usize = 256;

type InRepository = (RepositoryName, Digest);

/// A store with memory.
#[derive(Clone, Debug)]
pub struct CachedStorage {
    storage: Storage,
    key: Arc<SigningKey>,
    manifests: Cache<InRepository, Arc<StoredManifest>>,
    pointers: Cache<Digest, Arc<Pointer>>,
    members: Cache<InRepository, ()>,
    tags: Cache<(RepositoryName, Tag), Arc<TagRecord>>,
    lists: Cache<Digest, Arc<rpc::PieceList>>,
    inline: Cache<Digest, Bytes>,
}

/// Why a cached read has no answer. Shared by all who waited for the one read.
#[derive(Clone, Debug, thiserror::Error)]
enum Miss {
    #[error("not there")]
    Absent,
    #[error(transparent)]
    Failed(Arc<StorageError>),
}

impl CachedStorage {
    /// Empty caches over `storage`; `key` signs piece lists.
    pub fn new(storage: Storage, key: Arc<SigningKey>) -> Self {
        Self {
            storage,
            key,
            manifests: cache(MANIFEST_CACHE_BYTES, KEPT, |m: &Arc<StoredManifest>| m.content.len()),
            pointers: cache(POINTER_CACHE_BYTES, KEPT, |p: &Arc<Pointer>| p.segments.len() * 96),
            members: cache(MEMBER_CACHE_BYTES, KEPT, |()| 0),
            tags: cache(TAG_CACHE_BYTES, TAG_FRESH, |_| ENTRY_BYTES),
            lists: cache(LIST_CACHE_BYTES, KEPT, |l: &Arc<rpc::PieceList>| l.states.len()),
            inline: cache(INLINE_CACHE_BYTES, KEPT, Bytes::len),
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
        let read = async { self.storage.manifest(repository, digest).await };
        through(&self.manifests, (repository.clone(), *digest), read).await
    }

    /// What the tag names, at most [`TAG_FRESH`] old.
    pub async fn tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Arc<TagRecord>>, Arc<StorageError>> {
        let read = async { self.storage.tag(repository, tag).await };
        through(&self.tags, (repository.clone(), tag.clone()), read).await
    }

    /// The blob's pointer, if this repository holds the blob.
    pub async fn member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<Pointer>>, Arc<StorageError>> {
        let key = (repository.clone(), *digest);
        if self.members.get(&key).await.is_none() {
            if !self.storage.is_member(repository, digest).await? {
                return Ok(None);
            }
            self.members.insert(key, ()).await;
        }
        self.pointer(digest).await
    }

    /// The blob's pointer, whichever repository holds it.
    pub async fn pointer(
        &self,
        digest: &Digest,
    ) -> Result<Option<Arc<Pointer>>, Arc<StorageError>> {
        let read = async { self.storage.pointer(digest).await };
        through(&self.pointers, *digest, read).await
    }

    /// The signed list of a blob, its pieces as long as everyone's for that size.
    pub async fn piece_list(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<Arc<rpc::PieceList>, Arc<StorageError>> {
        let read = async {
            let fine = self.storage.piece_list(digest, pointer).await?;
            let length = piece_bytes_for(fine.size());
            let list = PieceList::coarsen(*digest, fine.size(), length, fine.states())
                .expect("the usual lengths are multiples of the kept interval");
            let signature = self.key.sign(&PieceListStatement { list: &list, provisional: false });
            Ok(Some(SignedPieceList { list, provisional: false, signature }.to_wire()))
        };
        let list = through(&self.lists, *digest, read).await?;
        Ok(list.expect("a list is made where none is kept"))
    }

    /// All bytes of a small blob; the caller has looked at `pointer.size`.
    pub async fn inline(
        &self,
        digest: &Digest,
        pointer: &Pointer,
    ) -> Result<Bytes, Arc<StorageError>> {
        self.inline.try_get_with(*digest, self.storage.read_whole(pointer)).await
    }

    /// Keeps a manifest.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: StoredManifest,
    ) -> Result<(), StorageError> {
        self.storage.put_manifest(repository, digest, &manifest).await?;
        self.manifests.insert((repository.clone(), *digest), Arc::new(manifest)).await;
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
        self.tags.invalidate(&(repository.clone(), tag.clone())).await;
        written
    }

    /// Deletes a tag; whether it was there.
    pub async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StorageError> {
        let deleted = self.storage.delete_tag(repository, tag).await;
        self.tags.invalidate(&(repository.clone(), tag.clone())).await;
        deleted
    }

    /// Deletes a manifest; whether it was there.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let deleted = self.storage.delete_manifest(repository, digest).await;
        self.manifests.invalidate(&(repository.clone(), *digest)).await;
        deleted
    }

    /// Takes a blob out of a repository; whether it was in.
    pub async fn remove_member(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StorageError> {
        let removed = self.storage.remove_member(repository, digest).await;
        self.members.invalidate(&(repository.clone(), *digest)).await;
        removed
    }
}

fn cache<K, V>(bytes_max: u64, kept: Duration, size: fn(&V) -> usize) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(bytes_max)
        .weigher(move |_, value| u32::try_from(size(value) + ENTRY_BYTES).unwrap_or(u32::MAX))
        .time_to_live(kept)
        .build()
}

async fn through<K, V>(
    cache: &Cache<K, Arc<V>>,
    key: K,
    read: impl Future<Output = Result<Option<V>, StorageError>>,
) -> Result<Option<Arc<V>>, Arc<StorageError>>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    let init = async {
        match read.await {
            Ok(Some(value)) => Ok(Arc::new(value)),
            Ok(None) => Err(Miss::Absent),
            Err(error) => Err(Miss::Failed(Arc::new(error))),
        }
    };
    match cache.try_get_with(key, init).await {
        Ok(value) => Ok(Some(value)),
        Err(miss) => match &*miss {
            Miss::Absent => Ok(None),
            Miss::Failed(error) => Err(error.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;
    use object_store::memory::InMemory;

    use super::*;

    fn cached() -> CachedStorage {
        let key = Arc::new(SigningKey::generate().0);
        CachedStorage::new(Storage::new(Arc::new(InMemory::new()), key.clone()), key)
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
            let found = cached.tag(&repository, &tag).await.unwrap();
            assert_eq!(found.as_deref(), Some(&record));
        }
    }
}
