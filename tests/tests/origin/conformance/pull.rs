//! distribution-spec 1.1.1, "Pull".

use http::Method;

use super::subject::{Answer, Content, IMAGE, INDEX, Repository, answer, sha256};

/// "Determining Support"
pub(super) async fn a_registry_says_that_it_is_one(repository: &Repository) {
    repository.get_url(repository.root("/v2/")).await.is(200);
}

/// "Pulling manifests"
pub(super) async fn a_manifest_is_pulled_by_its_tag(repository: &Repository) {
    let image = repository.push_image("v1").await;
    comes_whole(&repository.get("manifests/v1").await, &image);
}

/// "Pulling manifests"
pub(super) async fn a_manifest_is_pulled_by_its_digest(repository: &Repository) {
    let image = repository.push_image("v1").await;
    comes_whole(&repository.get(&format!("manifests/{}", image.digest)).await, &image);
}

#[track_caller]
fn comes_whole(got: &Answer, manifest: &Content) {
    assert_eq!(got.status(), 200);
    assert_eq!(got.body, manifest.bytes);
    assert_eq!(got.header("content-type"), manifest.media_type);
    assert_eq!(got.header("docker-content-digest"), manifest.digest);
}

/// "Pushing Manifests": stored byte for byte; image-spec: what is unknown is no error.
pub(super) async fn a_manifest_comes_back_byte_for_byte(repository: &Repository) {
    let config = Content::config();
    repository.push(&config).await;
    let odd = format!(
        "\n{{ \"layers\":[ ],\t\"config\" : {},\r\n\"x-own\":{{\"ü\":[1e3,null]}}, \
         \"mediaType\":\"{IMAGE}\",\"schemaVersion\":2 }}\n\n",
        config.descriptor()
    );
    let manifest = Content::new(IMAGE, odd);
    repository.put_manifest("odd", &manifest).await.is(201);
    comes_whole(&repository.get("manifests/odd").await, &manifest);
}

/// "Checking if content exists in the registry"
pub(super) async fn head_tells_a_manifests_digest_and_size(repository: &Repository) {
    let image = repository.push_image("v1").await;
    for reference in ["v1", &image.digest] {
        let head = repository.head(&format!("manifests/{reference}")).await.is(200);
        assert_eq!(head.header("docker-content-digest"), image.digest);
        assert_eq!(head.header("content-length"), image.bytes.len().to_string());
        assert_eq!(head.header("content-type"), image.media_type);
        assert!(head.body.is_empty());
    }
}

/// "Pulling manifests": 404 for what is not there.
pub(super) async fn an_unknown_manifest_is_not_found(repository: &Repository) {
    repository.push_image("v1").await;
    let unknown = sha256(b"nobody pushed this");
    for somewhere in [repository, &repository.other()] {
        for reference in ["v2", &unknown] {
            let path = format!("manifests/{reference}");
            let (_, codes) = somewhere.get(&path).await.is(404).codes();
            assert!(["MANIFEST_UNKNOWN", "NAME_UNKNOWN"].contains(&codes[0].as_str()), "{codes:?}");
            assert!(somewhere.head(&path).await.is(404).body.is_empty());
        }
    }
}

/// "Pulling manifests": `Accept` lists what the client takes.
pub(super) async fn a_manifest_comes_to_who_accepts_it(repository: &Repository) {
    let image = repository.push_image("v1").await;
    let lists = [IMAGE.to_owned(), format!("{INDEX}, {IMAGE};q=0.9"), "*/*".to_owned()];
    for accept in lists {
        let request = repository.request(Method::GET, "manifests/v1").header("accept", accept);
        comes_whole(&answer(request).await, &image);
    }
    let split = repository.request(Method::GET, "manifests/v1");
    comes_whole(&answer(split.header("accept", INDEX).header("accept", IMAGE)).await, &image);
}

/// "Pulling blobs"
pub(super) async fn a_blob_is_pulled_by_its_digest(repository: &Repository) {
    let blob = Content::layer(100_000);
    repository.push(&blob).await;
    let got = repository.get(&format!("blobs/{}", blob.digest)).await.is(200);
    assert!(got.body == blob.bytes);
    assert_eq!(got.header("content-length"), "100000");
}

/// "Checking if content exists in the registry"; RFC 9110, 14.2: a HEAD has no ranges.
pub(super) async fn head_tells_a_blobs_digest_and_size(repository: &Repository) {
    let blob = Content::layer(1234);
    repository.push(&blob).await;
    let path = format!("blobs/{}", blob.digest);
    let ranged = repository.request(Method::HEAD, &path).header("range", "bytes=0-9");
    for head in [repository.head(&path).await, answer(ranged).await] {
        let head = head.is(200);
        assert_eq!(head.header("docker-content-digest"), blob.digest);
        assert_eq!(head.header("content-length"), "1234");
        assert!(head.body.is_empty());
    }
}

/// "Pulling blobs": 404 for what is not there.
pub(super) async fn an_unknown_blob_is_not_found(repository: &Repository) {
    let unknown = sha256(b"nobody pushed this");
    repository.lacks(&unknown).await;
    assert!(repository.head(&format!("blobs/{unknown}")).await.is(404).body.is_empty());
}

/// "Definitions": a repository is a scope; what another one holds is not here.
pub(super) async fn a_blob_of_another_repository_is_not_found(repository: &Repository) {
    let blob = Content::layer(10);
    repository.push(&blob).await;
    repository.other().lacks(&blob.digest).await;
    repository.has(&blob).await;
}

/// "Pulling blobs": RFC 9110, 14.1.2, the three forms.
pub(super) async fn a_part_of_a_blob_is_pulled_by_its_range(repository: &Repository) {
    let blob = Content::layer(1000);
    repository.push(&blob).await;
    let path = format!("blobs/{}", blob.digest);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=990-", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=-5000", 0, 1000),
        ("bytes=0-", 0, 1000),
        ("bytes=999-5000", 999, 1000),
    ] {
        let got = answer(repository.request(Method::GET, &path).header("range", range)).await;
        let got = got.is(206);
        assert!(got.body == blob.bytes[from..to], "{range}");
        assert_eq!(got.header("content-range"), format!("bytes {from}-{}/1000", to - 1));
        assert_eq!(got.header("content-length"), (to - from).to_string());
    }
}

/// RFC 9110, 15.5.17
pub(super) async fn a_range_outside_a_blob_can_not_be_satisfied(repository: &Repository) {
    let blob = Content::layer(1000);
    repository.push(&blob).await;
    let path = format!("blobs/{}", blob.digest);
    for range in ["bytes=1000-", "bytes=1000-1001"] {
        answer(repository.request(Method::GET, &path).header("range", range)).await.is(416);
    }
}

/// RFC 9110, 14.2: a server may ignore or reject it; to who asked for a part the whole is a wrong
/// one.
pub(super) async fn a_range_that_ends_before_it_begins_can_not_be_satisfied(
    repository: &Repository,
) {
    let blob = Content::layer(1000);
    repository.push(&blob).await;
    for range in ["bytes=500-0", "bytes=500-499"] {
        let request = repository.request(Method::GET, &format!("blobs/{}", blob.digest));
        let refused = answer(request.header("range", range)).await.is(416);
        assert_eq!(refused.header("content-range"), "bytes */1000");
    }
}

/// "Resumable Pull": the rest of a blob is the same blob's rest.
pub(super) async fn a_pull_goes_on_where_it_broke_off(repository: &Repository) {
    let blob = Content::layer(300_000);
    repository.push(&blob).await;
    let path = format!("blobs/{}", blob.digest);
    let first = repository.request(Method::GET, &path).header("range", "bytes=0-99999");
    let first = answer(first).await.is(206);
    // Of the registry and not of a store that it redirects to: a version is its URL's.
    let head = repository.head(&path).await.is(200);
    let mut rest = repository.request(Method::GET, &path).header("range", "bytes=100000-");
    if head.has("etag") {
        rest = rest.header("if-range", head.header("etag"));
    }
    let whole = [&first.body[..], &answer(rest).await.is(206).body].concat();
    assert!(whole == blob.bytes);
}

/// Content of no bytes is content.
pub(super) async fn a_blob_without_bytes_is_pulled(repository: &Repository) {
    let blob = Content::layer(0);
    repository.push(&blob).await;
    repository.has(&blob).await;
    let head = repository.head(&format!("blobs/{}", blob.digest)).await.is(200);
    assert_eq!(head.header("content-length"), "0");
}
