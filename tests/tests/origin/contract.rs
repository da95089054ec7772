//! The registry's contract with its store, story by story, over the wire on real servers.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on says where")]

#[path = "../../../registry-shim/src/storage/tests/stories.rs"]
mod stories;
#[path = "../../../registry-shim/src/storage/tests/support.rs"]
mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use longshore_proto::sign::SigningKey;
use longshore_proto::{Algorithm, ByteRange, Digest, RepositoryName};
use longshore_registry::config;
use longshore_registry::storage::{
    Composed, OpenedStore, Pointer, Progress, Referrer, Storage, StorageError, StoredManifest,
    TagRecord, UploadError,
};
use longshore_tests::testkit::Backend;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use stories::for_each_story;
use support::*;
use tokio_util::sync::CancellationToken;

use crate::harness::{Stage, on};

/// A place of its own in the server's bucket, opened as the registry opens it.
async fn subject(stage: &Stage, story: &str) -> Subject {
    let settings = stage.store.settings();
    let value = |key| settings.get(key).map(str::to_owned);
    let credentials = stage.store.write_credentials(stage.loopback.directory()).unwrap();
    let config = config::Storage {
        url: format!("{}/stories/{story}", value("storage.url").unwrap()).parse().unwrap(),
        endpoint: value("storage.endpoint"),
        allow_http: true,
        credentials_file: Some(credentials),
        ..Default::default()
    };
    let OpenedStore { store, .. } = config.open().unwrap();
    let key = Arc::new(SigningKey::generate().0);
    let storage = Storage::open(store.clone(), key).await.unwrap();
    let expected = stage.store.backend().conditional_create();
    assert_eq!(storage.capabilities().conditional_create, expected);
    Subject::new(storage, store)
}

macro_rules! tell {
    ($($name:ident),* $(,)?) => {
        async fn all_stories(stage: &Stage) {
            $(
                stories::$name(subject(stage, stringify!($name)).await).await;
            )*
        }
    };
}

for_each_story!(tell);

async fn holds_on(backend: Backend) {
    on(backend, async |stage| {
        all_stories(stage).await;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_garage() {
    holds_on(Backend::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_moto() {
    holds_on(Backend::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_azurite() {
    holds_on(Backend::Azurite).await;
}
