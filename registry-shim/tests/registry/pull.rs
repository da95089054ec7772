//! Pulling, listing and deleting, as distribution-spec 1.1.1 describes it.

use longshore_proto::media_type;
use reqwest::header::{CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, LINK, RANGE};
use reqwest::{Method, StatusCode};

use crate::common::{TestRegistry, content, content_length, header, refusal, refused, sha256};

#[tokio::test]
async fn a_manifest_is_found_by_tag_and_by_digest() {
    let registry = TestRegistry::start().await;
    let digest = registry.push_image("a/b", "v1", &[b"layer"]).await;
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let (head, got) = (registry.head(&path).await, registry.get(&path).await);
        for response in [&head, &got] {
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(header(response, "docker-content-digest"), digest.to_string());
            assert_eq!(header(response, "content-type"), media_type::OCI_MANIFEST);
            assert_eq!(header(response, ETAG.as_str()), format!("\"{digest}\""));
        }
        let length = content_length(&head);
        assert!(head.bytes().await.unwrap().is_empty());
        let body = got.bytes().await.unwrap();
        assert_eq!((sha256(&body), body.len() as u64), (digest, length));
        let known = registry.request(Method::GET, &path);
        let known = known.header(IF_NONE_MATCH, format!("\"{digest}\"")).send().await.unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn a_blob_is_sent_whole_or_in_part() {
    let registry = TestRegistry::start().await;
    let blob = content(1_000_000, 5);
    let digest = registry.push_blob("a", &blob).await;
    let path = format!("/v2/a/blobs/{digest}");
    let head = registry.head(&path).await;
    assert_eq!((head.status(), content_length(&head)), (StatusCode::OK, 1_000_000));
    assert_eq!(header(&head, "accept-ranges"), "bytes");
    assert_eq!(header(&head, "docker-content-digest"), digest.to_string());

    let ranged = async |range: &str| {
        registry.request(Method::GET, &path).header(RANGE, range).send().await.unwrap()
    };
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=300000-700000", 300_000, 700_001),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=-10", 999_990, 1_000_000),
        ("bytes=5-99999999", 5, 1_000_000),
    ] {
        let got = ranged(range).await;
        assert_eq!(got.status(), StatusCode::PARTIAL_CONTENT);
        let expected = format!("bytes {from}-{}/1000000", to - 1);
        assert_eq!(header(&got, CONTENT_RANGE.as_str()), expected);
        assert!(got.bytes().await.unwrap() == blob[from..to]);
    }
    let outside = ranged("bytes=1000000-").await;
    assert_eq!(header(&outside, CONTENT_RANGE.as_str()), "bytes */1000000");
    assert_eq!(refusal(outside).await, refused(416, "SIZE_INVALID"));
    let several = ranged("bytes=0-1,5-6").await;
    assert_eq!((several.status(), content_length(&several)), (StatusCode::OK, 1_000_000));
    let changed = registry.request(Method::GET, &path).header(RANGE, "bytes=0-0");
    let changed = changed.header(IF_RANGE, "\"other\"").send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let registry = TestRegistry::start().await;
    let digest = registry.push_image("a", "v1", &[b"layer"]).await;
    let key = registry.key.clone();
    let registry = registry.restart().await;
    assert_eq!(registry.key, key);
    let got = registry.get("/v2/a/manifests/v1").await;
    assert_eq!(header(&got, "docker-content-digest"), digest.to_string());
    let layer = sha256(b"layer");
    let got = registry.get(&format!("/v2/a/blobs/{layer}")).await;
    assert_eq!(got.bytes().await.unwrap(), &b"layer"[..]);
}

#[tokio::test]
async fn what_is_not_there_has_its_own_error() {
    let registry = TestRegistry::start().await;
    registry.push_image("a", "v1", &[b"layer"]).await;
    let nobody = sha256(b"nobody");
    for (path, status, code) in [
        (format!("/v2/a/blobs/{nobody}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/b/blobs/{}", sha256(b"layer")), 404, "BLOB_UNKNOWN"),
        ("/v2/a/manifests/v2".into(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/a/manifests/{nobody}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/unknown/tags/list".into(), 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests/sha256:abc".into(), 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/md5:abc".into(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest".into(), 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/-x".into(), 400, "MANIFEST_INVALID"),
        ("/v2/A/manifests/v1".into(), 400, "NAME_INVALID"),
        ("/v2/a/tags/list?n=x".into(), 400, "UNSUPPORTED"),
        ("/v2/a/nouns/list".into(), 404, "UNSUPPORTED"),
        ("/v1/".into(), 404, "UNSUPPORTED"),
    ] {
        assert_eq!(refusal(registry.get(&path).await).await, refused(status, code), "{path}");
        let head = registry.head(&path).await;
        assert_eq!(head.status().as_u16(), status, "{path}");
    }
    let put = registry.request(Method::PUT, "/v2/a/tags/list").send().await.unwrap();
    assert_eq!(header(&put, "allow"), "GET, HEAD");
    assert_eq!(refusal(put).await, refused(405, "UNSUPPORTED"));
    let base = registry.get("/v2/").await;
    assert_eq!(base.status(), StatusCode::OK);
    assert_eq!(header(&base, "docker-distribution-api-version"), "registry/2.0");
    assert_eq!(header(&base, "x-request-id").len(), 16);
}

#[tokio::test]
async fn lists_come_in_pages_and_in_order() {
    let registry = TestRegistry::start().await;
    for repository in ["a/b", "a-b", "a"] {
        registry.push_image(repository, "v1", &[b"layer"]).await;
    }
    for tag in ["v10", "V2", "latest"] {
        registry.push_image("a", tag, &[b"layer"]).await;
    }
    let list = async |path: &str, field: &str| {
        let got = registry.get(path).await;
        let next = got.headers().get(LINK).map(|link| link.to_str().unwrap().to_owned());
        let body: serde_json::Value = got.json().await.unwrap();
        let names = body[field].as_array().unwrap().iter();
        (names.map(|n| n.as_str().unwrap().to_owned()).collect::<Vec<_>>(), next)
    };
    let (tags, next) = list("/v2/a/tags/list", "tags").await;
    assert_eq!((tags.join(" "), next), ("V2 latest v1 v10".to_owned(), None));
    let (tags, next) = list("/v2/a/tags/list?n=2", "tags").await;
    let link = "</v2/a/tags/list?n=2&last=latest>; rel=\"next\"";
    assert_eq!((tags.join(" "), next.as_deref()), ("V2 latest".to_owned(), Some(link)));
    let (tags, next) = list("/v2/a/tags/list?n=2&last=latest", "tags").await;
    assert_eq!((tags.join(" "), next), ("v1 v10".to_owned(), None));
    assert_eq!(list("/v2/a/tags/list?n=0", "tags").await.0.len(), 0);

    let (repositories, _) = list("/v2/_catalog", "repositories").await;
    assert_eq!(repositories.join(" "), "a a-b a/b");
    let (repositories, next) = list("/v2/_catalog?n=1&last=a", "repositories").await;
    assert_eq!((repositories.join(" "), next.is_some()), ("a-b".to_owned(), true));
}

#[tokio::test]
async fn deleting_takes_exactly_what_was_named() {
    let registry = TestRegistry::start().await;
    let digest = registry.push_image("a", "v1", &[b"layer"]).await;
    registry.push_image("a", "v2", &[b"layer"]).await;
    assert_eq!(registry.delete("/v2/a/manifests/v1").await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.head("/v2/a/manifests/v1").await.status(), 404);
    assert_eq!(registry.head("/v2/a/manifests/v2").await.status(), 200);
    assert_eq!(registry.delete("/v2/a/manifests/v1").await.status(), 404);

    let path = format!("/v2/a/manifests/{digest}");
    assert_eq!(registry.delete(&path).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.head(&path).await.status(), 404);
    // A tag whose manifest is gone reads as missing and is hidden.
    assert_eq!(registry.head("/v2/a/manifests/v2").await.status(), 404);
    let tags: serde_json::Value = registry.get("/v2/a/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"].as_array().unwrap().len(), 0);

    let layer = format!("/v2/a/blobs/{}", sha256(b"layer"));
    assert_eq!(registry.delete(&layer).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.head(&layer).await.status(), 404);
    assert_eq!(registry.delete(&layer).await.status(), 404);
    registry.push_blob("a", b"layer").await;
    assert_eq!(registry.head(&layer).await.status(), 200);
}

#[tokio::test]
async fn operators_see_health_and_counts() {
    let registry = TestRegistry::start().await;
    registry.push_image("a", "v1", &[b"layer"]).await;
    registry.get(&format!("/v2/a/blobs/{}", sha256(b"layer"))).await.bytes().await.unwrap();
    for path in ["livez", "readyz"] {
        let url = format!("http://{}/{path}", registry.admin);
        assert_eq!(registry.client.get(url).send().await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(registry.metric("longshore_registry_sent_bytes_total{kind=\"blob\"}").await, 5);
    let committed = "longshore_registry_uploads_total{outcome=\"committed\"}";
    assert_eq!(registry.metric(committed).await, 2);
}
