//! Manifests and lists: coalesced, kept by digest, fresh by tag, stale during an outage.

use futures::future::join_all;
use http::StatusCode;
use longshore_proto::{Digest, media_type};

use super::fake::Fake;
use super::{fronted, in_front_of};
use crate::common::{TestRegistry, header, image_manifest, refusal, refused, sha256};

const TAG: &str = "/v2/hub/library/web/manifests/v1";
const ALWAYS_ASK: &str = "tag_fresh_s = 0\n";

fn put(fake: &Fake, layer: &[u8]) -> Digest {
    let manifest = image_manifest(b"{}", &[layer]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest)
}

async fn digest_of(registry: &TestRegistry, path: &str) -> String {
    let got = registry.get(path).await;
    assert_eq!(got.status(), StatusCode::OK);
    header(&got, "docker-content-digest")
}

#[tokio::test]
async fn many_who_ask_for_a_tag_ask_once() {
    let (fake, registry) = fronted("").await;
    let digest = put(&fake, b"one").to_string();
    let all = join_all((0..100).map(|_| digest_of(&registry, TAG))).await;
    assert!(all.into_iter().all(|got| got == digest));
    // By digest it is here by now.
    let by_digest = format!("/v2/hub/library/web/manifests/{digest}");
    assert_eq!(digest_of(&registry, &by_digest).await, digest);
    assert_eq!((fake.count("GET", "/manifests/"), fake.count("HEAD", "/manifests/")), (1, 0));
}

/// distribution-spec 1.1, "Registry Proxying".
#[tokio::test]
async fn an_answer_within_a_namespace_names_it() {
    let (fake, registry) = fronted("").await;
    put(&fake, b"one");
    for (tag, status) in [("v1", StatusCode::OK), ("v2", StatusCode::NOT_FOUND)] {
        let path = format!("/v2/library/web/manifests/{tag}?ns=docker.io");
        let got = registry.get(&path).await;
        assert_eq!((got.status(), header(&got, "oci-namespace").as_str()), (status, "docker.io"));
    }
    assert!(!registry.get(TAG).await.headers().contains_key("oci-namespace"));
    let unknown = registry.get("/v2/library/web/manifests/v1?ns=example.com").await;
    assert!(!unknown.headers().contains_key("oci-namespace"));
}

#[tokio::test]
async fn a_tag_is_confirmed_by_a_head_and_followed_when_it_moves() {
    for no_digest in [false, true] {
        let (fake, registry) = fronted(ALWAYS_ASK).await;
        fake.conduct(|conduct| conduct.no_digest = no_digest);
        let first = put(&fake, b"one").to_string();
        for _ in 0..3 {
            assert_eq!(digest_of(&registry, TAG).await, first);
        }
        let gets = fake.count("GET", "/manifests/");
        assert_eq!(gets, if no_digest { 3 } else { 1 });
        let second = put(&fake, b"two").to_string();
        assert_eq!(digest_of(&registry, TAG).await, second);
        let got = registry.head(TAG).await;
        assert_eq!(header(&got, "docker-content-digest"), second);
    }
}

#[tokio::test]
async fn an_outage_is_answered_from_what_is_kept_and_says_so() {
    for failure in [(500, None), (503, None), (429, Some(30)), (504, None)] {
        let (fake, registry) = fronted(ALWAYS_ASK).await;
        let digest = put(&fake, b"one").to_string();
        assert_eq!(digest_of(&registry, TAG).await, digest);
        fake.conduct(|conduct| conduct.status = Some(failure));
        let got = registry.get(TAG).await;
        assert_eq!(header(&got, "warning"), "299 - \"Response is stale\"", "{failure:?}");
        assert_eq!(header(&got, "docker-content-digest"), digest);
        assert!(registry.metric("longshore_registry_upstream_stale_answers_total").await > 0);
        // What never came is no 404 for it.
        let other = registry.get("/v2/hub/library/web/manifests/v2").await;
        assert!(header(&other, "retry-after").parse::<u64>().unwrap() > 0);
        assert!(matches!(other.status().as_u16(), 502..=504), "{}", other.status());
        let blob = format!("/v2/hub/library/web/blobs/{}", sha256(b"one"));
        assert!(matches!(registry.get(&blob).await.status().as_u16(), 502..=504));
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_is_an_outage_too() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let registry = in_front_of(&nobody, "").await;
    let got = registry.get(TAG).await;
    assert_eq!(header(&got, "retry-after"), "2");
    assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"));
}

#[tokio::test]
async fn stale_has_a_limit() {
    let (fake, registry) = fronted("tag_fresh_s = 0\ntag_stale_max_s = 0\n").await;
    put(&fake, b"one");
    digest_of(&registry, TAG).await;
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    // The limit is in whole milliseconds: this one's has passed once the clock has moved.
    let got = loop {
        let got = registry.get(TAG).await;
        if got.status() != StatusCode::OK {
            break got;
        }
    };
    assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"));
}

#[tokio::test]
async fn an_upstream_that_limits_is_left_alone_for_as_long_as_it_says() {
    let (fake, registry) = fronted(ALWAYS_ASK).await;
    put(&fake, b"one");
    digest_of(&registry, TAG).await;
    fake.conduct(|conduct| conduct.status = Some((429, Some(60))));
    registry.get(TAG).await;
    let asked = fake.seen().len();
    for tag in ["a", "b", "c"] {
        let got = registry.get(&format!("/v2/hub/library/web/manifests/{tag}")).await;
        assert!(header(&got, "retry-after").parse::<u64>().unwrap() > 50);
        assert_eq!(refusal(got).await, refused(503, "UNAVAILABLE"));
    }
    assert_eq!(fake.seen().len(), asked);
}

#[tokio::test]
async fn what_the_upstream_does_not_have_is_a_404_that_is_not_stale_later() {
    let (fake, registry) = fronted(ALWAYS_ASK).await;
    put(&fake, b"one");
    digest_of(&registry, TAG).await;
    fake.forget_manifests();
    assert_eq!(refusal(registry.get(TAG).await).await, refused(404, "MANIFEST_UNKNOWN"));
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    assert_eq!(refusal(registry.get(TAG).await).await, refused(502, "UNAVAILABLE"));
    for status in [401, 403] {
        fake.conduct(|conduct| conduct.status = Some((status, None)));
        assert_eq!(refusal(registry.get(TAG).await).await, refused(403, "DENIED"));
    }
}

#[tokio::test]
async fn content_that_is_no_manifest_is_refused() {
    let (fake, registry) = fronted("").await;
    let huge = format!("{{\"a\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    for (tag, content) in [("huge", huge.as_str()), ("text", "hello"), ("other", "{}")] {
        fake.put_manifest("library/web", tag, media_type::OCI_MANIFEST, content);
        let got = registry.get(&format!("/v2/hub/library/web/manifests/{tag}")).await;
        assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"), "{tag}");
    }
}

#[tokio::test]
async fn tags_are_the_upstreams_and_what_is_kept_during_an_outage() {
    let (fake, registry) = fronted("").await;
    put(&fake, b"one");
    fake.put_manifest("library/web", "v2", media_type::OCI_MANIFEST, &image_manifest(b"{}", &[]));
    let list = "/v2/hub/library/web/tags/list";
    let tags = async |path: &str| {
        let got: serde_json::Value = registry.get(path).await.json().await.unwrap();
        assert_eq!(got["name"], "hub/library/web");
        got["tags"].as_array().unwrap().len()
    };
    assert_eq!(tags(list).await, 2);
    let page = registry.get(&format!("{list}?n=1")).await;
    assert_eq!(header(&page, "link"), format!("<{list}?n=1&last=v1>; rel=\"next\""));
    // During an outage, what was pulled is known and the rest is not.
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    assert_eq!(refusal(registry.get(list).await).await, refused(502, "UNAVAILABLE"));
    fake.conduct(|conduct| conduct.status = None);
    digest_of(&registry, TAG).await;
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    assert!(registry.get(list).await.headers().contains_key("warning"));
    assert_eq!(tags(list).await, 1);
}

fn referrers_page(names: std::ops::Range<u8>) -> String {
    let one = |name: u8| {
        let digest = sha256(&[name]);
        format!(r#"{{"mediaType":"m","digest":"{digest}","size":1,"artifactType":"a"}}"#)
    };
    let all: Vec<String> = names.map(one).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, all.join(","))
}

#[tokio::test]
async fn referrers_are_those_of_all_pages() {
    let (fake, registry) = fronted("").await;
    let subject = put(&fake, b"one");
    let path = |page: &str| format!("/v2/library/web/referrers/{subject}{page}");
    fake.put_page(&path(""), referrers_page(0..3), Some(&path("?page=2")));
    // A page may be relative, or name the whole address.
    let third = format!("{}{}", fake.url(), path("?page=3"));
    fake.put_page(&path("?page=2"), referrers_page(3..4), Some(&third));
    fake.put_page(&path("?page=3"), referrers_page(4..6), None);
    let here = format!("/v2/hub/library/web/referrers/{subject}");
    let list: serde_json::Value = registry.get(&here).await.json().await.unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 6);

    // One without an end, one that leads away, one that breaks: half a list is none.
    let other = Fake::start().await;
    for next in [path(""), format!("{}/v2/x", other.url()), path("?page=gone")] {
        fake.put_page(&path(""), referrers_page(0..3), Some(&next));
        let got = registry.get(&here).await;
        let (status, listed) = (got.status(), got.text().await.unwrap());
        assert!(
            status == StatusCode::BAD_GATEWAY || !listed.contains(&sha256(&[0]).to_string()),
            "{next}"
        );
    }
    assert!(fake.count("GET", "/referrers/") < 50);
    assert_eq!(other.seen(), []);
}

#[tokio::test]
async fn another_registry_of_ours_can_be_the_upstream() {
    let origin = TestRegistry::start().await;
    let layer = vec![7; 300_000];
    let digest = origin.push_image("library/web", "v1", &[&layer]).await;
    let subject = format!(
        r#"{{"mediaType":"{}","digest":"{digest}","size":{}}}"#,
        media_type::OCI_MANIFEST,
        image_manifest(br#"{"architecture":"amd64","os":"linux"}"#, &[&layer]).len()
    );
    origin.push_blob("library/web", b"{}").await;
    let referrer = image_manifest(b"{}", &[b"{}"]).trim_end_matches('}').to_owned();
    let referrer = format!("{referrer},\"subject\":{subject}}}");
    let put = origin.put_manifest("library/web", "sig", media_type::OCI_MANIFEST, &referrer).await;
    assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());

    let registry = in_front_of(&format!("http://{}", origin.address), "").await;
    assert_eq!(digest_of(&registry, TAG).await, digest.to_string());
    let blob = format!("/v2/hub/library/web/blobs/{}", sha256(&layer));
    assert!(registry.get(&blob).await.bytes().await.unwrap() == layer);
    let referrers = format!("/v2/hub/library/web/referrers/{digest}");
    let list: serde_json::Value = registry.get(&referrers).await.json().await.unwrap();
    assert_eq!(list["manifests"][0]["digest"], sha256(referrer.as_bytes()).to_string());
    let tags: serde_json::Value =
        registry.get("/v2/hub/library/web/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["sig", "v1"]));
    origin.stop().await;
    assert_eq!(digest_of(&registry, TAG).await, digest.to_string());
    assert!(registry.get(&blob).await.bytes().await.unwrap() == layer);
}
