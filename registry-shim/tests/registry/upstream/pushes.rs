//! Pushes into a fronted repository: refused, or passed on before they are acknowledged.

use http::{Method, StatusCode};
use longshore_proto::media_type;

use super::fronted;
use crate::common::{content, image_manifest, refusal, refused, sha256};

const PASS: &str = "push = \"pass\"\n";

#[tokio::test]
async fn a_push_is_refused_where_nothing_else_is_said() {
    let (fake, registry) = fronted("").await;
    let begin = registry.request(Method::POST, "/v2/hub/a/blobs/uploads/").send().await.unwrap();
    assert_eq!(refusal(begin).await, refused(403, "DENIED"));
    let manifest = image_manifest(b"{}", &[]);
    let put = registry.put_manifest("hub/a", "v1", media_type::OCI_MANIFEST, &manifest).await;
    assert_eq!(refusal(put).await, refused(403, "DENIED"));
    assert_eq!(fake.seen(), []);
}

#[tokio::test]
async fn a_push_is_at_the_upstream_before_it_is_acknowledged() {
    let (fake, registry) = fronted(PASS).await;
    let layer = content(6 * 1024 * 1024, 1);
    let digest = registry.push_image("hub/a", "v1", &[&layer]).await;
    assert!(fake.blob(&sha256(&layer)).unwrap() == layer);
    assert!(fake.has_manifest("a", "v1") && fake.has_manifest("a", &digest.to_string()));
    // It is here too, and a second push of the layer sends nothing.
    let posts = fake.count("POST", "/blobs/uploads/");
    registry.push_blob("hub/a", &layer).await;
    assert_eq!(fake.count("POST", "/blobs/uploads/"), posts);
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    let got = registry.get(&format!("/v2/hub/a/blobs/{}", sha256(&layer))).await;
    assert!(got.bytes().await.unwrap() == layer);
    let got = registry.get(&format!("/v2/hub/a/manifests/{digest}")).await;
    assert_eq!(got.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_the_upstream_does_not_take_is_not_acknowledged_and_not_kept() {
    let (fake, registry) = fronted(PASS).await;
    fake.conduct(|conduct| conduct.refuse_push = true);
    let blob = content(1000, 2);
    let put = |blob: Vec<u8>| {
        let path = format!("/v2/hub/a/blobs/uploads/?digest={}", sha256(&blob));
        registry.request(Method::POST, &path).body(blob).send()
    };
    assert_eq!(put(blob.clone()).await.unwrap().status(), StatusCode::BAD_REQUEST);
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    assert_eq!(put(blob.clone()).await.unwrap().status(), StatusCode::BAD_GATEWAY);
    fake.conduct(|conduct| conduct.status = None);
    let got = registry.get(&format!("/v2/hub/a/blobs/{}", sha256(&blob))).await;
    assert_eq!(refusal(got).await, refused(404, "BLOB_UNKNOWN"));

    let manifest = image_manifest(b"{}", &[]);
    let put = registry.put_manifest("hub/a", "v1", media_type::OCI_MANIFEST, &manifest).await;
    assert_eq!(refusal(put).await, refused(400, "MANIFEST_INVALID"));
    let got = registry.get("/v2/hub/a/manifests/v1").await;
    assert_eq!(refusal(got).await, refused(404, "MANIFEST_UNKNOWN"));
}

#[tokio::test]
async fn bytes_that_are_not_their_digest_never_leave() {
    let (fake, registry) = fronted(PASS).await;
    let path = format!("/v2/hub/a/blobs/uploads/?digest={}", sha256(b"other"));
    let put = registry.request(Method::POST, &path).body("bytes").send().await.unwrap();
    assert_eq!(refusal(put).await, refused(400, "DIGEST_INVALID"));
    assert_eq!(fake.count("POST", "/"), 0);
}
