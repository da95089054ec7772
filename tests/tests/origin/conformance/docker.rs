//! Docker's "Image Manifest Version 2, Schema 2": what docker's own clients push and pull.

use http::Method;
use serde_json::json;

use super::subject::{Content, IMAGE, Repository, answer};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

async fn image(repository: &Repository) -> Content {
    let config = Content { media_type: CONFIG.to_owned(), ..Content::config() };
    let layer = Content { media_type: LAYER.to_owned(), ..Content::layer(90) };
    repository.push(&config).await;
    repository.push(&layer).await;
    let foreign = Content { media_type: FOREIGN.to_owned(), ..Content::layer(90) };
    let mut foreign = foreign.descriptor();
    foreign["urls"] = json!(["https://example.com/layer"]);
    Content::manifest(json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(),
        "layers": [foreign, layer.descriptor()],
    }))
}

/// "Image Manifest": kept with its type; a foreign layer need not be there.
pub(super) async fn an_image_comes_back_as_it_was_pushed(repository: &Repository) {
    let image = image(repository).await;
    let put = repository.put_manifest("v1", &image).await.is(201);
    assert_eq!(put.header("docker-content-digest"), image.digest);
    for reference in ["v1", &image.digest] {
        let get = repository.request(Method::GET, &format!("manifests/{reference}"));
        let accepts = format!("{MANIFEST}, {LIST}, {IMAGE}, */*");
        let got = answer(get.header("accept", accepts)).await.is(200);
        assert_eq!((&got.body[..], got.header("content-type")), (&image.bytes[..], MANIFEST));
    }
}

/// "Manifest List"
pub(super) async fn a_manifest_list_comes_back_as_it_was_pushed(repository: &Repository) {
    let image = image(repository).await;
    repository.put_manifest(&image.digest, &image).await.is(201);
    let mut entry = image.descriptor();
    entry["platform"] = json!({"architecture": "amd64", "os": "linux", "features": ["sse4"]});
    let list = Content::manifest(json!({
        "schemaVersion": 2, "mediaType": LIST, "manifests": [entry],
    }));
    repository.put_manifest("multi", &list).await.is(201);
    let got = repository.get("manifests/multi").await.is(200);
    assert_eq!((&got.body[..], got.header("content-type")), (&list.bytes[..], LIST));
}

/// Layers of the image itself have to be there.
pub(super) async fn an_image_without_its_layers_is_refused(repository: &Repository) {
    let image = image(&repository.other()).await;
    let (refused, codes) = repository.put_manifest("v1", &image).await.codes();
    refused.one_of(&[400, 404]);
    assert_eq!(codes[0], "MANIFEST_BLOB_UNKNOWN");
}

/// Schema 1 has no digests worth the name: it is refused, and the refusal says what it is.
pub(super) async fn schema_1_is_refused_by_name(repository: &Repository) {
    let content = json!({
        "schemaVersion": 1, "name": repository.name, "tag": "v1", "architecture": "amd64",
        "fsLayers": [{"blobSum": "sha256:00"}], "history": [{"v1Compatibility": "{}"}],
    });
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
    ] {
        let manifest = Content::new(media_type, content.to_string());
        let refused = repository.put_manifest("v1", &manifest).await;
        let refused = refused.refused(400, "MANIFEST_INVALID");
        let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("schema 1"), "{message}");
    }
    repository.get("manifests/v1").await.is(404);
}

/// Docker looks for this header before it speaks to a registry.
pub(super) async fn the_base_names_the_apis_version(repository: &Repository) {
    let base = repository.get_url(repository.root("/v2/")).await.is(200);
    assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");
}
