//! What the stories and the crash tests push, and how they read it back.
//!
//! Compiled here and, over the wire, by the origin's tests: it uses nothing that is not public.

use super::*;

pub(super) const ACTOR: &str = "someone";
pub(super) const NOW_MS: u64 = 1_700_000_000_000;

pub(super) fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

pub(super) fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

pub(super) fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Pushes in one request.
pub(super) async fn push(storage: &Storage, content: &Bytes) -> Digest {
    let digest = sha256(content);
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content.clone()).await.unwrap();
    let progress = appender.finish().await.unwrap();
    storage.commit(&repository(), None, progress, &digest).await.unwrap();
    digest
}

/// Pushes in several requests, the first ones of these lengths; each leaves a segment.
pub(super) async fn push_in_requests(
    storage: &Storage,
    content: &Bytes,
    lengths: &[usize],
) -> Digest {
    let begun = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, NOW_MS).await;
    let (session, digest) = (begun.unwrap(), sha256(content));
    let (mut progress, mut rest) = (Progress::new(Algorithm::Sha256), content.clone());
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let mut appender = storage.append(progress);
        appender.write(rest.split_to(length.min(rest.len()))).await.unwrap();
        progress = storage.save_upload(&session, appender).await.unwrap();
    }
    storage.commit(&repository(), Some(&session), progress, &digest).await.unwrap();
    storage.forget_upload(&session).await.unwrap();
    digest
}

pub(super) async fn read(storage: &Storage, pointer: &Pointer, range: Option<(u64, u64)>) -> Bytes {
    let range = range.and_then(|(offset, length)| ByteRange::new(offset, length));
    let chunks: Vec<Bytes> = storage.stream(pointer, range).try_collect().await.unwrap();
    chunks.concat().into()
}

pub(super) fn manifest(text: &'static str) -> (Digest, StoredManifest) {
    let content = Bytes::from_static(text.as_bytes());
    (sha256(&content), StoredManifest { media_type: "application/json".into(), content })
}

pub(super) fn tag_record(digest: Digest) -> TagRecord {
    TagRecord::new(digest, "application/json".into(), 2, NOW_MS, ACTOR.into())
}

/// A storage and the store under it, to be looked at behind its back.
pub(super) struct Subject {
    storage: Storage,
    store: Arc<dyn ObjectStore>,
}

impl std::ops::Deref for Subject {
    type Target = Storage;

    fn deref(&self) -> &Storage {
        &self.storage
    }
}

impl Subject {
    pub(super) fn new(storage: Storage, store: Arc<dyn ObjectStore>) -> Self {
        Self { storage, store }
    }

    /// The keys that begin with this prefix, sorted.
    pub(super) async fn stored(&self, prefix: &str) -> Vec<Path> {
        let listing = self.store.list(Some(&Path::from(prefix)));
        let mut keys: Vec<Path> =
            listing.map_ok(|object| object.location).try_collect().await.unwrap();
        keys.sort();
        keys
    }

    pub(super) async fn object(&self, key: &Path) -> Bytes {
        self.store.get(key).await.unwrap().bytes().await.unwrap()
    }

    pub(super) async fn put_object(&self, key: &Path, content: Bytes) {
        self.store.put(key, content.into()).await.unwrap();
    }

    pub(super) async fn delete_object(&self, key: &Path) {
        self.store.delete(key).await.unwrap();
    }
}
