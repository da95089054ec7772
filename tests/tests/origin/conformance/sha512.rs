//! image-spec 1.1, "Digests": SHA-512 names whatever SHA-256 names. distribution-spec 1.1.1 leaves
//! the algorithm to the client: an answer's digest is of the one that was asked for.

use http::Method;
use serde_json::json;

use super::subject::{Content, IMAGE, Repository, answer, sha256, with_query};

fn layer(length: usize) -> Content {
    Content::layer(length).in_sha512()
}

async fn answers_with(repository: &Repository, blob: &Content) {
    repository.has(blob).await;
    for method in [Method::GET, Method::HEAD] {
        let got = answer(repository.request(method, &format!("blobs/{}", blob.digest))).await;
        got.is(200);
    }
    let head = repository.head(&format!("blobs/{}", blob.digest)).await.is(200);
    assert_eq!(head.header("docker-content-digest"), blob.digest);
    repository.lacks(&sha256(&blob.bytes)).await;
}

/// "POST then PUT"
pub(super) async fn a_blob_is_pushed_by_post_then_put(repository: &Repository) {
    let blob = layer(100_000);
    let closed = repository.close(&repository.begin().await, &blob.digest, &blob.bytes).await;
    let closed = closed.is(201);
    assert!(closed.location().as_str().ends_with(&blob.digest));
    assert!(repository.get_url(closed.location()).await.is(200).body == blob.bytes);
    answers_with(repository, &blob).await;
}

/// "Single POST"
pub(super) async fn a_blob_is_pushed_by_a_single_post(repository: &Repository) {
    let blob = layer(100_000);
    let url = with_query(&repository.url("blobs/uploads/"), "digest", &blob.digest);
    let posted = answer(repository.at(Method::POST, url).body(blob.bytes.clone())).await.is(201);
    assert_eq!(posted.header("docker-content-digest"), blob.digest);
    answers_with(repository, &blob).await;
}

/// "Pushing a blob in chunks": the algorithm comes with the closing PUT.
pub(super) async fn chunks_make_a_blob(repository: &Repository) {
    let blob = layer(700_000);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes[..300_001]).await.is(202).location();
    let upload = repository.patch(&upload, 300_001, &blob.bytes[300_001..]).await.location();
    let closed = repository.close(&upload, &blob.digest, b"").await.is(201);
    assert_eq!(closed.header("docker-content-digest"), blob.digest);
    answers_with(repository, &blob).await;
}

/// "Pushing a blob in chunks": the last chunk comes with the closing PUT.
pub(super) async fn the_last_chunk_may_close_the_upload(repository: &Repository) {
    let blob = layer(5000);
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes[..4000]).await.is(202).location();
    repository.close(&upload, &blob.digest, &blob.bytes[4000..]).await.is(201);
    answers_with(repository, &blob).await;
}

/// "Pushing a blob in chunks": 416 out of order, the closing PUT's chunk included, and the upload
/// goes on.
pub(super) async fn chunks_out_of_order_are_416(repository: &Repository) {
    let blob = layer(3000);
    let upload = repository.begin().await;
    repository.patch(&upload, 1000, &blob.bytes[1000..2000]).await.is(416);
    let upload = repository.patch(&upload, 0, &blob.bytes[..2000]).await.is(202).location();
    for (from, status) in [(1000, 416), (2001, 416), (2000, 201)] {
        let put = repository.at(Method::PUT, with_query(&upload, "digest", &blob.digest));
        let put = put.header("content-range", format!("{from}-2999"));
        answer(put.body(blob.bytes[from..].to_vec())).await.is(status);
    }
    answers_with(repository, &blob).await;
}

/// "Pulling blobs": RFC 9110, 14.1.2
pub(super) async fn a_part_of_a_blob_is_pulled_by_its_range(repository: &Repository) {
    let blob = layer(2048);
    repository.push(&blob).await;
    let path = format!("blobs/{}", blob.digest);
    for (range, from, to) in [("bytes=500-1499", 500, 1500), ("bytes=-500", 1548, 2048)] {
        let got = answer(repository.request(Method::GET, &path).header("range", range)).await;
        assert!(got.is(206).body == blob.bytes[from..to], "{range}");
    }
    let outside = repository.request(Method::GET, &path).header("range", "bytes=5000-10000");
    answer(outside).await.is(416);
}

/// Bytes that are not the digest's are refused, and the upload can still be closed.
pub(super) async fn other_bytes_are_refused(repository: &Repository) {
    let (blob, other) = (layer(5000), layer(10));
    let upload = repository.begin().await;
    let upload = repository.patch(&upload, 0, &blob.bytes).await.is(202).location();
    repository.close(&upload, &other.digest, b"").await.refused(400, "DIGEST_INVALID");
    repository.lacks(&other.digest).await;
    repository.close(&upload, &blob.digest, b"").await.is(201);
    answers_with(repository, &blob).await;
}

/// Content of no bytes is content.
pub(super) async fn a_blob_without_bytes_is_pushed(repository: &Repository) {
    repository.push(&layer(0)).await;
    repository.has(&layer(0)).await;
}

/// "Mounting a blob from another repository"
pub(super) async fn a_blob_is_mounted(repository: &Repository) {
    let (blob, source) = (layer(1000), repository.other());
    source.push(&blob).await;
    let query = format!("blobs/uploads/?mount={}&from={}", blob.digest, source.name);
    let mounted = answer(repository.request(Method::POST, &query)).await.is(201);
    assert_eq!(mounted.header("docker-content-digest"), blob.digest);
    answers_with(repository, &blob).await;
    let missing = layer(1000);
    let query = format!("blobs/uploads/?mount={}&from={}", missing.digest, source.name);
    let upload = answer(repository.request(Method::POST, &query)).await.is(202).location();
    repository.close(&upload, &missing.digest, &missing.bytes).await.is(201);
    answers_with(repository, &missing).await;
}

/// The same bytes may have both names.
pub(super) async fn both_algorithms_may_name_the_same_bytes(repository: &Repository) {
    let blob = Content::layer(1000);
    repository.push(&blob).await;
    let long = blob.clone().in_sha512();
    repository.lacks(&long.digest).await;
    repository.push(&long).await;
    repository.has(&long).await;
    repository.delete(&format!("blobs/{}", blob.digest)).await.is(202);
    answers_with(repository, &long).await;
}

async fn image(repository: &Repository) -> Content {
    let (config, layer) = (Content::config().in_sha512(), layer(64));
    repository.push(&config).await;
    repository.push(&layer).await;
    Content::image(&config, &[&layer]).in_sha512()
}

/// "Pushing Manifests": by digest.
pub(super) async fn a_manifest_is_pushed_by_digest(repository: &Repository) {
    let image = image(repository).await;
    let put = repository.put_manifest(&image.digest, &image).await.is(201);
    assert_eq!(put.header("docker-content-digest"), image.digest);
    assert_eq!(repository.get_url(put.location()).await.is(200).body, image.bytes);
    let got = repository.get(&format!("manifests/{}", image.digest)).await.is(200);
    assert_eq!(got.header("docker-content-digest"), image.digest);
    let other = image.clone().in_sha512();
    let wrong = Content { bytes: [&other.bytes[..], b" "].concat(), ..other };
    repository.put_manifest(&image.digest, &wrong).await.refused(400, "DIGEST_INVALID");
}

/// Beyond 1.1.1: what a tag names may be given its digest, so that SHA-512 images have tags too.
pub(super) async fn a_tag_may_come_with_the_digest_that_it_names(repository: &Repository) {
    let image = image(repository).await;
    let put = repository.put_manifest(&format!("v1?digest={}", image.digest), &image).await.is(201);
    assert_eq!(put.header("docker-content-digest"), image.digest);
    let got = repository.get("manifests/v1").await.is(200);
    assert_eq!(
        (got.header("docker-content-digest"), &got.body[..]),
        (&image.digest[..], &image.bytes[..])
    );
    repository.get(&format!("manifests/{}", sha256(&image.bytes))).await.is(404);
    let other = layer(1).digest;
    let put = repository.put_manifest(&format!("v2?digest={other}"), &image).await;
    put.refused(400, "DIGEST_INVALID");
    repository.get("manifests/v2").await.is(404);
}

/// Beyond 1.1.1: a manifest that is pushed by digest may be given its tags at once.
pub(super) async fn a_digest_may_come_with_tags(repository: &Repository) {
    let image = image(repository).await;
    let reference = format!("{}?tag=one&tag=two", image.digest);
    let put = repository.put_manifest(&reference, &image).await.is(201);
    assert_eq!(put.all("oci-tag"), ["one", "two"]);
    for tag in ["one", "two"] {
        let got = repository.get(&format!("manifests/{tag}")).await.is(200);
        assert_eq!(got.header("docker-content-digest"), image.digest);
    }
    let bad = format!("{}?tag=three&tag=.bad", image.digest);
    repository.put_manifest(&bad, &image).await.refused(400, "MANIFEST_INVALID");
    repository.get("manifests/three").await.is(404);
}

/// An index may name manifests of both algorithms.
pub(super) async fn an_index_names_manifests_of_both(repository: &Repository) {
    let (long, short) = (image(repository).await, repository.push_image("short").await);
    repository.put_manifest(&long.digest, &long).await.is(201);
    let index = Content::index(&[&long, &short]).in_sha512();
    repository.put_manifest(&index.digest, &index).await.is(201);
    repository.get(&format!("manifests/{}", index.digest)).await.is(200);
}

/// "Listing Referrers"
pub(super) async fn referrers_name_and_are_named(repository: &Repository) {
    let subject = image(repository).await;
    repository.put_manifest(&subject.digest, &subject).await.is(201);
    let empty = Content::empty().in_sha512();
    repository.push(&empty).await;
    let about = |id: u8| {
        Content::manifest(json!({
            "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "a/b", "config": empty.descriptor(),
            "layers": [], "subject": subject.descriptor(), "annotations": {"id": id.to_string()},
        }))
    };
    let (long, short) = (about(1).in_sha512(), about(2));
    for artifact in [&long, &short] {
        let put = repository.put_manifest(&artifact.digest, artifact).await.is(201);
        assert_eq!(put.header("oci-subject"), subject.digest);
    }
    let path = format!("referrers/{}", subject.digest);
    let list = repository.get(&path).await.is(200).json();
    let list = list["manifests"].as_array().unwrap().clone();
    let found: Vec<_> = list.iter().map(|one| one["digest"].clone()).collect();
    assert_eq!(found.len(), 2);
    assert!(found.contains(&json!(long.digest)) && found.contains(&json!(short.digest)));
    repository.delete(&format!("manifests/{}", long.digest)).await.is(202);
    let left = repository.get(&path).await.is(200).json();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
}

/// "Content Management"
pub(super) async fn what_is_deleted_is_gone(repository: &Repository) {
    let (image, blob) = (image(repository).await, layer(10));
    repository.put_manifest(&image.digest, &image).await.is(201);
    repository.push(&blob).await;
    repository.delete(&format!("manifests/{}", image.digest)).await.is(202);
    repository.get(&format!("manifests/{}", image.digest)).await.is(404);
    repository.delete(&format!("blobs/{}", blob.digest)).await.is(202);
    repository.lacks(&blob.digest).await;
}
