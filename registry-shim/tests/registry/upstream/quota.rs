//! What is filled is charged to the project that it lands in; over quota it is passed on.

use std::sync::Arc;

use http::{Method, StatusCode};
use longshore_proto::sign::SigningKey;
use longshore_proto::{Digest, media_type};
use longshore_registry::quota;
use longshore_registry::storage::Storage;
use object_store::local::LocalFileSystem;
use reqwest::header::CONTENT_LENGTH;

use super::fake::Fake;
use super::{blob_path, fills, upstream};
use crate::common::{TestRegistry, content, image_manifest, until};

const MIB: usize = 1024 * 1024;

/// A fake, and a registry in front of it whose project `hub` may have so many bytes.
async fn with_limit(limit: u64) -> (Fake, TestRegistry) {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let fake = Fake::start().await;
    let one = upstream(&fake.url(), "");
    let registry = TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.absent_s = 0;
        config.quota.projects.insert("hub".parse().unwrap(), limit);
    })
    .await;
    (fake, registry)
}

fn storage(registry: &TestRegistry) -> Storage {
    let store = LocalFileSystem::new_with_prefix(registry.directory.path().join("store"));
    Storage::new(Arc::new(store.unwrap()), Arc::new(SigningKey::generate().0))
}

async fn used(registry: &TestRegistry) -> u64 {
    let hub = "hub".parse().unwrap();
    quota::count(&storage(registry), &hub).await.unwrap().used
}

async fn is_member(registry: &TestRegistry, digest: &Digest) -> bool {
    let web = "hub/library/web".parse().unwrap();
    storage(registry).is_member(&web, digest).await.unwrap()
}

async fn pull(registry: &TestRegistry, path: &str) -> Vec<u8> {
    let got = registry.get(path).await;
    assert_eq!(got.status(), StatusCode::OK);
    got.bytes().await.unwrap().to_vec()
}

fn segments(registry: &TestRegistry) -> usize {
    fn files(directory: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
    }
    files(&registry.directory.path().join("store/data"))
}

#[tokio::test]
async fn a_fill_costs_its_project_what_a_push_costs() {
    let (fake, registry) = with_limit(10 * MIB as u64).await;
    let layer = content(3 * MIB, 1);
    let digest = fake.put_blob(&layer);
    let manifest = image_manifest(b"{}", &[&layer]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest);
    for _ in 0..2 {
        let got = pull(&registry, "/v2/hub/library/web/manifests/v1").await;
        assert_eq!(got, manifest.as_bytes());
        assert!(pull(&registry, &blob_path(&digest)).await == layer);
        until("the fill is kept", async || is_member(&registry, &digest).await).await;
        assert_eq!(used(&registry).await, (layer.len() + manifest.len()) as u64);
    }
    assert_eq!(fills(&registry, "kept").await, 1);
}

#[tokio::test]
async fn what_does_not_fit_reaches_its_readers_and_is_not_kept() {
    // One that is refused while it comes, and one that nothing is known of before its end.
    for size in [3 * MIB, 1000] {
        let (fake, registry) = with_limit(900).await;
        let layer = content(size, 2);
        let digest = fake.put_blob(&layer);
        for pulled in 1..=2 {
            assert!(pull(&registry, &blob_path(&digest)).await == layer);
            until("a fill ends", async || fills(&registry, "passed").await == pulled).await;
        }
        assert!(!is_member(&registry, &digest).await);
        assert_eq!(used(&registry).await, 0);
        until("nothing of it is left", async || segments(&registry) == 0).await;
        // What fits is kept all the same.
        let small = content(900, 3);
        let digest = fake.put_blob(&small);
        assert!(pull(&registry, &blob_path(&digest)).await == small);
        until("what fits is kept", async || is_member(&registry, &digest).await).await;
        assert_eq!(used(&registry).await, 900);
    }
}

#[tokio::test]
async fn a_manifest_over_quota_is_answered_and_not_kept() {
    let (fake, registry) = with_limit(100).await;
    let manifest = image_manifest(b"{}", &[b"layer"]);
    let digest = fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest);
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/hub/library/web/manifests/{reference}");
        assert_eq!(pull(&registry, &path).await, manifest.as_bytes());
    }
    let web = "hub/library/web".parse().unwrap();
    assert!(storage(&registry).manifest(&web, &digest).await.unwrap().is_none());
    assert_eq!(used(&registry).await, 0);
}

#[tokio::test]
async fn bytes_that_are_here_already_are_charged_too_and_served_where_they_do_not_fit() {
    for (limit, kept) in [(2 * MIB as u64, true), (1000, false)] {
        let (fake, registry) = with_limit(limit).await;
        let blob = content(MIB, 4);
        let digest = registry.push_blob("own", &blob).await;
        fake.put_blob(&blob);
        assert!(pull(&registry, &blob_path(&digest)).await == blob);
        assert_eq!(fake.count("GET", "/blobs/"), 0);
        assert_eq!(is_member(&registry, &digest).await, kept);
        assert_eq!(used(&registry).await, if kept { MIB as u64 } else { 0 });
    }
}

#[tokio::test]
async fn headroom_that_a_push_holds_does_not_hold_up_a_pull() {
    let (fake, registry) = with_limit(2000).await;
    let mut held = stalled_push(&registry).await;
    let manifest = image_manifest(b"{}", &[b"layer"]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest);
    let layer = content(1000, 5);
    let digest = fake.put_blob(&layer);
    assert_eq!(pull(&registry, "/v2/hub/library/web/manifests/v1").await, manifest.as_bytes());
    assert!(pull(&registry, &blob_path(&digest)).await == layer);
    assert!(!held.is_finished(), "the push is still there");
    held.abort();
    let _ended = (&mut held).await;
    // Its room is there again for the next fill.
    until("a fill is kept", async || {
        pull(&registry, &blob_path(&digest)).await;
        is_member(&registry, &digest).await
    })
    .await;
}

/// A push into `hub` itself, which is nobody else's: it holds all but 100 of 2000 bytes and never ends.
async fn stalled_push(registry: &TestRegistry) -> tokio::task::JoinHandle<()> {
    let location = registry.begin_upload("hub").await;
    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Vec<u8>, String>>());
    let patch = registry.request(Method::PATCH, &location).header(CONTENT_LENGTH, 1900).body(body);
    let push = tokio::spawn(async move { drop(patch.send().await) });
    let hub = "hub".parse().unwrap();
    let storage = storage(registry);
    until("the push holds its room", async || {
        let slots = storage.slots(&hub).await.unwrap();
        slots.iter().any(|slot| slot.bytes >= 1900)
    })
    .await;
    push
}
