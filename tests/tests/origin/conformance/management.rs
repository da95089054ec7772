//! distribution-spec 1.1.1, "Content Management".

use super::subject::{Content, Repository, sha256};

/// "Deleting tags": 202, then 404; the manifest stays.
pub(super) async fn a_deleted_tag_is_gone_and_its_manifest_is_not(repository: &Repository) {
    let image = repository.push_image("v1").await;
    repository.put_manifest("v2", &image).await.is(201);
    repository.delete("manifests/v1").await.is(202);
    repository.get("manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    repository.head("manifests/v1").await.is(404);
    repository.get("manifests/v2").await.is(200);
    repository.get(&format!("manifests/{}", image.digest)).await.is(200);
    let tags = repository.get("tags/list").await.is(200).json();
    assert_eq!(tags["tags"], serde_json::json!(["v2"]));
}

/// "Deleting Manifests": 202, then 404 for the digest and every tag that points to it.
pub(super) async fn a_deleted_manifest_is_gone_with_its_tags(repository: &Repository) {
    let image = repository.push_image("v1").await;
    repository.put_manifest("v2", &image).await.is(201);
    let other = repository.push_image("other").await;
    repository.delete(&format!("manifests/{}", image.digest)).await.is(202);
    for reference in ["v1", "v2", &image.digest] {
        let gone = repository.get(&format!("manifests/{reference}")).await;
        gone.refused(404, "MANIFEST_UNKNOWN");
        repository.head(&format!("manifests/{reference}")).await.is(404);
    }
    assert_eq!(repository.get("manifests/other").await.is(200).body, other.bytes);
    let tags = repository.get("tags/list").await.is(200).json();
    assert_eq!(tags["tags"], serde_json::json!(["other"]));
}

/// "Deleting Blobs": 202, then 404.
pub(super) async fn a_deleted_blob_is_gone(repository: &Repository) {
    let (blob, kept) = (Content::layer(100), Content::layer(100));
    repository.push(&blob).await;
    repository.push(&kept).await;
    repository.delete(&format!("blobs/{}", blob.digest)).await.is(202);
    repository.lacks(&blob.digest).await;
    repository.head(&format!("blobs/{}", blob.digest)).await.is(404);
    repository.has(&kept).await;
}

/// "Endpoints": 404 for what is not there.
pub(super) async fn what_is_not_there_can_not_be_deleted(repository: &Repository) {
    let unknown = sha256(b"nobody pushed this");
    repository.push_image("v1").await;
    for somewhere in [repository, &repository.other()] {
        for reference in ["v2", &unknown] {
            let (refused, codes) =
                somewhere.delete(&format!("manifests/{reference}")).await.codes();
            refused.is(404);
            assert!(["MANIFEST_UNKNOWN", "NAME_UNKNOWN"].contains(&codes[0].as_str()), "{codes:?}");
        }
        let refused = somewhere.delete(&format!("blobs/{unknown}")).await;
        refused.refused(404, "BLOB_UNKNOWN");
    }
}

/// The second of two deletes finds nothing.
pub(super) async fn what_was_deleted_can_not_be_deleted_again(repository: &Repository) {
    let (image, blob) = (repository.push_image("v1").await, Content::layer(10));
    repository.push(&blob).await;
    let (manifest, blob) =
        (format!("manifests/{}", image.digest), format!("blobs/{}", blob.digest));
    for path in ["manifests/v1", &manifest, &blob] {
        repository.delete(path).await.is(202);
        repository.delete(path).await.is(404);
    }
}

/// What was deleted can be pushed again.
pub(super) async fn what_was_deleted_can_be_pushed_again(repository: &Repository) {
    let (config, layer) = (Content::config(), Content::layer(50));
    let image = Content::image(&config, &[&layer]);
    for _round in 0..2 {
        repository.push(&config).await;
        repository.push(&layer).await;
        repository.put_manifest("v1", &image).await.is(201);
        assert_eq!(repository.get("manifests/v1").await.is(200).body, image.bytes);
        repository.delete("manifests/v1").await.is(202);
        repository.delete(&format!("manifests/{}", image.digest)).await.is(202);
        repository.delete(&format!("blobs/{}", layer.digest)).await.is(202);
        repository.lacks(&layer.digest).await;
    }
    repository.put_manifest("v1", &image).await.is(404);
}

/// Content is the repository's own: a delete elsewhere takes nothing from here.
pub(super) async fn a_delete_takes_nothing_from_other_repositories(repository: &Repository) {
    let (config, layer, other) = (Content::config(), Content::layer(50), repository.other());
    let image = Content::image(&config, &[&layer]);
    for one in [repository, &other] {
        one.push(&config).await;
        one.push(&layer).await;
        one.put_manifest("v1", &image).await.is(201);
    }
    other.delete("manifests/v1").await.is(202);
    other.delete(&format!("manifests/{}", image.digest)).await.is(202);
    for blob in [&config, &layer] {
        other.delete(&format!("blobs/{}", blob.digest)).await.is(202);
        repository.has(blob).await;
    }
    assert_eq!(repository.get("manifests/v1").await.is(200).body, image.bytes);
}

/// A tag that pointed to what was deleted can name something new.
pub(super) async fn a_tag_of_a_deleted_manifest_can_be_used_again(repository: &Repository) {
    let image = repository.push_image("v1").await;
    repository.delete(&format!("manifests/{}", image.digest)).await.is(202);
    let next = repository.push_image("v1").await;
    assert_eq!(repository.get("manifests/v1").await.is(200).body, next.bytes);
}

/// What is no digest is refused before anything is deleted.
pub(super) async fn a_delete_of_what_is_no_digest_is_refused(repository: &Repository) {
    repository.delete("blobs/sha256:zz").await.refused(400, "DIGEST_INVALID");
    repository.delete("manifests/sha256:zz").await.refused(400, "DIGEST_INVALID");
}
