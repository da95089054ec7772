//! distribution-spec 1.1.1, "Mounting a blob from another repository".

use http::Method;

use super::subject::{Answer, Content, Repository, answer, sha256};

async fn mount(repository: &Repository, query: &str) -> Answer {
    answer(repository.request(Method::POST, &format!("blobs/uploads/?{query}"))).await
}

/// The answer began an upload that takes the blob.
async fn begins_an_upload(repository: &Repository, answer: Answer, blob: &Content) {
    let upload = answer.is(202).location();
    repository.lacks(&blob.digest).await;
    repository.close(&upload, &blob.digest, &blob.bytes).await.is(201);
    repository.has(blob).await;
}

/// 201 with a location and the digest.
pub(super) async fn a_blob_is_mounted_from_where_it_is(repository: &Repository) {
    let (blob, source) = (Content::layer(1000), repository.other());
    source.push(&blob).await;
    let query = format!("mount={}&from={}", blob.digest, source.name);
    let mounted = mount(repository, &query).await.is(201);
    assert!(repository.get_url(mounted.location()).await.is(200).body == blob.bytes);
    assert_eq!(mounted.header("docker-content-digest"), blob.digest);
    repository.has(&blob).await;
}

/// A name in a query comes as clients encode it.
pub(super) async fn a_mounts_source_may_be_encoded(repository: &Repository) {
    let (blob, source) = (Content::layer(1000), repository.other());
    source.push(&blob).await;
    let (digest, name) = (blob.digest.replace(':', "%3A"), source.name.replace('/', "%2F"));
    mount(repository, &format!("from={name}&mount={digest}")).await.is(201);
    repository.has(&blob).await;
}

/// 202 where the source does not have the blob.
pub(super) async fn a_blob_that_is_not_there_is_uploaded(repository: &Repository) {
    let (blob, source) = (Content::layer(1000), repository.other());
    source.push(&Content::layer(10)).await;
    let query = format!("mount={}&from={}", blob.digest, source.name);
    begins_an_upload(repository, mount(repository, &query).await, &blob).await;
}

/// 202 where the source is no repository.
pub(super) async fn a_blob_of_a_repository_that_is_not_there_is_uploaded(repository: &Repository) {
    let blob = Content::layer(1000);
    let query = format!("mount={}&from={}", blob.digest, repository.other().name);
    begins_an_upload(repository, mount(repository, &query).await, &blob).await;
}

/// "MAY treat the `from` parameter as optional": the blob is found wherever it is.
pub(super) async fn a_mount_from_anywhere_finds_the_blob(repository: &Repository) {
    let (blob, source) = (Content::layer(1000), repository.other());
    source.push(&blob).await;
    let mounted = mount(repository, &format!("mount={}", blob.digest)).await.is(201);
    assert!(repository.get_url(mounted.location()).await.is(200).body == blob.bytes);
    repository.has(&blob).await;
    let nowhere = Content::layer(1000);
    let answer = mount(repository, &format!("mount={}", nowhere.digest)).await;
    begins_an_upload(repository, answer, &nowhere).await;
}

/// A mounted blob is the repository's own.
pub(super) async fn a_mounted_blob_outlives_its_source(repository: &Repository) {
    let (blob, source) = (Content::layer(1000), repository.other());
    source.push(&blob).await;
    mount(repository, &format!("mount={}&from={}", blob.digest, source.name)).await.is(201);
    source.delete(&format!("blobs/{}", blob.digest)).await.is(202);
    source.lacks(&blob.digest).await;
    repository.has(&blob).await;
}

/// What was mounted can be named by a manifest.
pub(super) async fn an_image_is_made_of_mounted_blobs(repository: &Repository) {
    let (config, layer, source) = (Content::config(), Content::layer(99), repository.other());
    source.push(&config).await;
    source.push(&layer).await;
    for blob in [&config, &layer] {
        let query = format!("mount={}&from={}", blob.digest, source.name);
        mount(repository, &query).await.is(201);
    }
    repository.put_manifest("v1", &Content::image(&config, &[&layer])).await.is(201);
    repository.get("manifests/v1").await.is(200);
}

/// What is no digest can not be mounted.
pub(super) async fn a_mount_of_what_is_no_digest_is_refused(repository: &Repository) {
    let query = format!("mount=sha256:zz&from={}", repository.other().name);
    mount(repository, &query).await.refused(400, "DIGEST_INVALID");
    mount(repository, "mount=sha256:zz").await.refused(400, "DIGEST_INVALID");
    let query = format!("mount={}&from=Not/A/Name", sha256(b"x"));
    mount(repository, &query).await.refused(400, "NAME_INVALID");
}
