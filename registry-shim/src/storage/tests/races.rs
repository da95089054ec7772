//! Requests that end one upload at the same moment, on stores that refuse a second Create and on
//! stores that overwrite. Whatever their order, an acknowledged blob reads back whole.
//!
//! The orders are seeded: a store that gives way at random before every call, on one thread.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::storage::{Session, UploadError};

const SEEDS: u64 = 300;
/// The most that one call gives way: enough for another request to run to its end.
const TURNS_MAX: u32 = 40;

/// Gives way before each call; with `overwrites` it also takes a Create for an Overwrite.
#[derive(Debug)]
struct Shuffled {
    inner: Arc<InMemory>,
    random: std::sync::Mutex<SmallRng>,
    overwrites: bool,
}

impl Shuffled {
    fn new(seed: u64, overwrites: bool) -> Self {
        let random = std::sync::Mutex::new(SmallRng::seed_from_u64(seed));
        Self { inner: Arc::new(InMemory::new()), random, overwrites }
    }

    async fn give_way(&self) {
        let turns = {
            let mut random = self.random.lock().unwrap();
            if random.random_range(0..4) == 0 { random.random_range(0..TURNS_MAX) } else { 0 }
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl fmt::Display for Shuffled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shuffled")
    }
}

#[async_trait]
impl ObjectStore for Shuffled {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.give_way().await;
        let how = if self.overwrites { PutMode::Overwrite.into() } else { how };
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.give_way().await;
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

/// Finds the upload, adds `rest`, commits it under `digest` and forgets it: one final PUT. Whether
/// it was acknowledged.
async fn finish(storage: &Storage, id: uuid::Uuid, rest: Bytes, digest: Digest) -> bool {
    let found = storage.upload(id, &repository(), ACTOR, storage.now_ms()).await.unwrap();
    let Some((session, progress)) = found else { return false };
    let mut appender = storage.append(progress);
    appender.write(rest).await.unwrap();
    let progress = appender.finish().await.unwrap();
    match storage.commit(&repository(), Some(&session), progress, &digest).await {
        Ok(_) => {
            storage.forget_upload(&session).await.unwrap();
            true
        }
        Err(UploadError::Raced | UploadError::WrongDigest { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn cancel(storage: &Storage, id: uuid::Uuid) -> bool {
    let found = storage.upload(id, &repository(), ACTOR, storage.now_ms()).await.unwrap();
    let Some((session, progress)) = found else { return false };
    match storage.cancel_upload(&session, &progress).await {
        Ok(()) => true,
        Err(UploadError::Raced) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A session that has its first half.
async fn begun(storage: &Storage, half: Bytes) -> Session {
    let now_ms = storage.now_ms();
    let session = storage.begin_upload(&repository(), ACTOR, Algorithm::Sha256, now_ms).await;
    let session = session.unwrap();
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(half).await.unwrap();
    storage.save_upload(&session, appender).await.unwrap();
    session
}

async fn race(seed: u64, overwrites: bool) -> usize {
    let key = Arc::new(SigningKey::generate().0);
    let store = Arc::new(Shuffled::new(seed, overwrites));
    let storage = Storage::open(store, key).await.unwrap();
    assert_eq!(storage.capabilities().conditional_create, !overwrites);
    let content = content(4000);
    let (half, rest) = (content.slice(..2000), content.slice(2000..));
    let id = begun(&storage, half).await.id;
    let (sha256, sha512) = (sha256(&content), Digest::of(Algorithm::Sha512, &content));
    let (first, second, third, _cancelled) = tokio::join!(
        finish(&storage, id, rest.clone(), sha256),
        finish(&storage, id, rest.clone(), sha256),
        finish(&storage, id, rest.clone(), sha512),
        cancel(&storage, id),
    );
    for (acknowledged, digest) in [(first, sha256), (second, sha256), (third, sha512)] {
        if acknowledged {
            let pointer = storage.pointer(&digest).await.unwrap().expect("acknowledged");
            assert!(storage.is_member(&repository(), &digest).await.unwrap(), "seed {seed}");
            let chunks = storage.stream(&pointer, None).try_collect::<Vec<Bytes>>().await;
            let read = chunks.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert!(read.concat() == content, "seed {seed}: other bytes");
        }
    }
    let ended = [first, second, third].into_iter().filter(|&acknowledged| acknowledged).count();
    assert!(ended <= 1, "seed {seed}: one upload ended {ended} times");
    ended
}

/// A push in two requests; whether it was acknowledged.
async fn push_again(storage: &Storage, content: &Bytes) -> bool {
    let (half, rest) = (content.slice(..2000), content.slice(2000..));
    let id = begun(storage, half).await.id;
    finish(storage, id, rest, sha256(content)).await
}

async fn race_of_composers(seed: u64, overwrites: bool) -> bool {
    let key = Arc::new(SigningKey::generate().0);
    let storage = Storage::open(Arc::new(Shuffled::new(seed, overwrites)), key).await.unwrap();
    let content = content(4000);
    let digest = push_in_requests(&storage, &content, &[2000]).await;
    let (go, repository) = (CancellationToken::new(), repository());
    let (first, second, _removed, pushed) = tokio::join!(
        storage.compose(&digest, &go),
        storage.compose(&digest, &go),
        storage.remove_member(&repository, &digest),
        push_again(&storage, &content),
    );
    assert!(pushed, "seed {seed}");
    let pointer = storage.pointer(&digest).await.unwrap().expect("it was pushed");
    assert!(read(&storage, &pointer, None).await == content, "seed {seed}: other bytes");
    let ended = [first, second].map(|composed| composed.unwrap());
    let done = ended.iter().any(|ended| matches!(ended, Composed::Done(_)));
    assert!(!done || pointer.segments.len() == 1, "seed {seed}: {ended:?}");
    done
}

#[tokio::test]
async fn a_blob_that_is_composed_twice_and_pushed_and_deleted_at_once_stays_whole() {
    for overwrites in [false, true] {
        let mut done = 0;
        for seed in 0..SEEDS {
            done += usize::from(race_of_composers(seed, overwrites).await);
        }
        assert!(done > 50, "only {done} of {SEEDS} races composed the blob");
    }
}

#[tokio::test]
async fn an_upload_that_many_end_at_once_loses_no_acknowledged_byte() {
    for overwrites in [false, true] {
        let mut acknowledged = 0;
        for seed in 0..SEEDS {
            acknowledged += race(seed, overwrites).await;
        }
        assert!(acknowledged > 50, "only {acknowledged} of {SEEDS} races had a winner");
    }
}

/// A push under an immutable tag beside a delete of what it names; whether the delete was refused.
async fn race_for_a_tag(seed: u64) -> bool {
    let store = Arc::new(Shuffled::new(seed, false));
    let storage = storage(store, &Arc::new(SigningKey::generate().0));
    let storage = storage.with_immutable_tags(&["*:v1".parse().unwrap()]);
    let (repository, tag) = (repository(), "v1".parse().unwrap());
    let (digest, stored) = manifest("{}");
    storage.put_manifest(&repository, &digest, &stored).await.unwrap();
    let push = async {
        storage.put_manifest(&repository, &digest, &stored).await?;
        storage.put_tag(&repository, &tag, &tag_record(digest)).await?;
        storage.keep_manifest(&repository, &digest, &stored).await
    };
    let (pushed, deleted) = tokio::join!(push, storage.delete_manifest(&repository, &digest));
    pushed.unwrap();
    assert!(storage.tag(&repository, &tag).await.unwrap().is_some());
    let there = storage.manifest(&repository, &digest).await.unwrap();
    assert!(there.is_some(), "seed {seed}: an immutable tag without its manifest");
    deleted.is_err()
}

#[tokio::test]
async fn an_immutable_tag_that_comes_beside_a_delete_keeps_its_manifest() {
    let mut refused = 0;
    for seed in 0..SEEDS {
        refused += u64::from(race_for_a_tag(seed).await);
    }
    assert!(refused > 0 && refused < SEEDS, "{refused} of {SEEDS} deletes came too late");
}
