//! The store's contract, held by memory and by a local directory; and crashes at every write.

mod charge;
mod contract;
mod crash;
mod faulty;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, ByteRange, Digest, RepositoryName};
use object_store::ObjectStore;

use super::{Pointer, Progress, Storage, StoredManifest, TagRecord};

const ACTOR: &str = "someone";
const NOW_MS: u64 = 1_700_000_000_000;

fn storage(store: Arc<dyn ObjectStore>, key: &Arc<SigningKey>) -> Storage {
    Storage::new(store, key.clone())
}

fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Pushes in one request.
async fn push(storage: &Storage, content: &Bytes) -> Digest {
    let digest = sha256(content);
    let mut appender = storage.append(Progress::new(Algorithm::Sha256));
    appender.write(content.clone()).await.unwrap();
    let progress = appender.finish().await.unwrap();
    storage.commit(&repository(), None, progress, &digest).await.unwrap();
    digest
}

async fn read(storage: &Storage, pointer: &Pointer, range: Option<(u64, u64)>) -> Bytes {
    let range = range.and_then(|(offset, length)| ByteRange::new(offset, length));
    let chunks: Vec<Bytes> = storage.stream(pointer, range).try_collect().await.unwrap();
    chunks.concat().into()
}

fn manifest(text: &'static str) -> (Digest, StoredManifest) {
    let content = Bytes::from_static(text.as_bytes());
    (sha256(&content), StoredManifest { media_type: "application/json".into(), content })
}

fn tag_record(digest: Digest) -> TagRecord {
    TagRecord::new(digest, "application/json".into(), 2, NOW_MS, ACTOR.into())
}
