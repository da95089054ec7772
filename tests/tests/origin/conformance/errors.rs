//! distribution-spec 1.1.1, "Error Codes" and the grammar of names. That every refusal of the suite
//! has the specification's shape and one of its codes, `Answer::refused` asserts everywhere.

use http::Method;

use super::subject::{Content, IMAGE, Repository, answer, sha256};

/// "Pulling manifests": `<name>`
pub(super) async fn names_of_the_grammar_are_taken(repository: &Repository) {
    let begin = &repository.name;
    for name in ["a", "a0/0", "a.b", "a_b", "a__b", "a-b", "a---b", "tags/list", "blobs/manifests"]
    {
        let named = repository.named(&format!("{begin}/{name}"));
        let image = named.push_image("v1").await;
        assert_eq!(named.get("manifests/v1").await.is(200).body, image.bytes);
    }
}

/// "Pulling manifests": `<name>`; code NAME_INVALID.
pub(super) async fn names_outside_the_grammar_are_refused(repository: &Repository) {
    let digest = sha256(b"x");
    let long = "a".repeat(300);
    for name in ["Upper", "a..b", "a._b", "-a", "a-", "a___b", "a/-b", "a%20b", "a//b", &long] {
        let bad = repository.named(name);
        let get = |path: String| {
            let bad = bad.clone();
            async move { bad.get(&path).await }
        };
        get("tags/list".to_owned()).await.refused(400, "NAME_INVALID");
        get("manifests/v1".to_owned()).await.refused(400, "NAME_INVALID");
        get(format!("blobs/{digest}")).await.refused(400, "NAME_INVALID");
        get(format!("referrers/{digest}")).await.refused(400, "NAME_INVALID");
        let post = answer(bad.request(Method::POST, "blobs/uploads/")).await;
        post.refused(400, "NAME_INVALID");
        let put = bad.put_manifest("v1", &Content::new(IMAGE, "{}")).await;
        put.refused(400, "NAME_INVALID");
    }
}

/// A digest has a known algorithm and as many lower-case digits as that gives.
pub(super) async fn what_is_no_digest_is_refused(repository: &Repository) {
    let upper = sha256(b"x").to_uppercase().replace("SHA", "sha");
    let md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
    for digest in
        ["sha256", "sha256:", "sha256:zz", &sha256(b"x")[..70], &upper, md5, "..%2F..%2Fx"]
    {
        let path = format!("blobs/{digest}");
        repository.get(&path).await.refused(400, "DIGEST_INVALID");
        assert!(repository.head(&path).await.is(400).body.is_empty());
    }
}

/// A colon may come encoded.
pub(super) async fn a_digest_may_be_encoded(repository: &Repository) {
    let image = repository.push_image("v1").await;
    let encoded = image.digest.replace(':', "%3A");
    repository.get(&format!("manifests/{encoded}")).await.is(200);
    repository.get(&format!("referrers/{encoded}")).await.is(200);
}

/// RFC 9110, 15.5.6: 405 names what is allowed.
pub(super) async fn other_methods_are_405_and_told_what_is_allowed(repository: &Repository) {
    let digest = sha256(b"x");
    let blob = format!("blobs/{digest}");
    let referrers = format!("referrers/{digest}");
    for (method, path, allowed) in [
        (Method::POST, "tags/list", "GET"),
        (Method::DELETE, "tags/list", "GET"),
        (Method::POST, "manifests/v1", "PUT"),
        (Method::PATCH, "manifests/v1", "DELETE"),
        (Method::PUT, &blob, "DELETE"),
        (Method::POST, &blob, "HEAD"),
        (Method::PUT, &referrers, "GET"),
        (Method::GET, "blobs/uploads/", "POST"),
        (Method::POST, "blobs/uploads/00000000-0000-4000-8000-000000000000", "PATCH"),
    ] {
        let refused = answer(repository.request(method, path)).await;
        let refused = refused.refused(405, "UNSUPPORTED");
        let header = refused.header("allow");
        assert!(header.split(',').any(|word| word.trim() == allowed), "{path}: {header}");
    }
    answer(repository.at(Method::DELETE, repository.root("/v2/"))).await.is(405);
    answer(repository.at(Method::POST, repository.root("/v2/_catalog"))).await.is(405);
}

/// What is no path of the API is not found, and nothing else happens.
pub(super) async fn other_paths_are_not_found(repository: &Repository) {
    for path in ["/", "/v1/", "/v2/a", "/v3/a/tags/list", "/v2/a/b", "/v2/a/tags/other"] {
        repository.get_url(repository.root(path)).await.is(404);
    }
}

/// What a client still sends when it is refused does not hide the answer.
pub(super) async fn a_refusal_reaches_a_client_that_is_still_sending(repository: &Repository) {
    let upload = repository.url("blobs/uploads/00000000-0000-4000-8000-000000000000");
    let patch = repository.at(Method::PATCH, upload).body(vec![0; 3_000_000]);
    answer(patch).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let huge = Content::new(IMAGE, vec![b' '; 9_000_000]);
    repository.put_manifest("v1", &huge).await.refused(413, "SIZE_INVALID");
}
