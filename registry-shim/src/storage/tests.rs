//! The store's contract, held by memory and by a local directory, and by real servers in the
//! origin's tests; races; and crashes at every write.

mod charge;
mod compose;
mod contract;
mod crash;
pub(crate) mod faulty;
mod races;
mod rotation;
mod spy;
mod stories;
mod support;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, ByteRange, Digest, RepositoryName};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio_util::sync::CancellationToken;

use super::{
    Composed, Pointer, Progress, Referrer, Storage, StorageError, StoredManifest, TagRecord,
    UploadError,
};
use support::*;

fn storage(store: Arc<dyn ObjectStore>, key: &Arc<SigningKey>) -> Storage {
    Storage::new(store, key.clone())
}
