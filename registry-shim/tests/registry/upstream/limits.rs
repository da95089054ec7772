//! Upstreams that limit, that want a password, and whose tokens end.

use std::time::{Duration, Instant};

use http::StatusCode;
use longshore_proto::media_type;

use super::fake::{Bearer, Fake};
use super::{fronted, in_front_of};
use crate::common::{content, header, image_manifest, refusal, refused, until};

const TAG: &str = "/v2/hub/library/web/manifests/v1";

fn put_manifest(fake: &Fake) {
    let manifest = image_manifest(b"{}", &[]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest);
}

fn credentials(directory: &tempfile::TempDir, password: &str) -> String {
    let file = directory.path().join("password");
    std::fs::write(&file, password).unwrap();
    format!("username = \"me\"\npassword_file = \"{}\"\n", file.display())
}

#[tokio::test]
async fn who_asks_too_often_waits_as_long_as_it_is_told_and_others_are_not_let_through() {
    let (fake, registry) = fronted("").await;
    put_manifest(&fake);
    fake.conduct(|conduct| conduct.next = vec![(429, Some(1))]);
    let begun = Instant::now();
    let first = registry.get(TAG);
    let second = async {
        until("the first was refused", async || fake.seen().len() == 1).await;
        registry.get("/v2/hub/library/web/manifests/v2").await
    };
    let (first, second) = futures::join!(first, second);
    assert_eq!(first.status(), StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // That one came in the pause, and tries again behind it or is told when to.
    if second.status() != StatusCode::NOT_FOUND {
        assert!(header(&second, "retry-after").parse::<u64>().unwrap() >= 1);
        assert_eq!(refusal(second).await, refused(503, "UNAVAILABLE"));
    }
}

#[tokio::test]
async fn an_upstream_in_trouble_is_asked_again_before_its_client_hears_of_it() {
    let (fake, registry) = fronted("").await;
    put_manifest(&fake);
    fake.conduct(|conduct| conduct.next = vec![(500, None), (502, None)]);
    assert_eq!(registry.get(TAG).await.status(), StatusCode::OK);
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test]
async fn a_password_is_shown_once_it_was_asked_for_and_only_the_right_one_opens() {
    let (fake, directory) = (Fake::start().await, tempfile::tempdir().unwrap());
    put_manifest(&fake);
    fake.conduct(|conduct| conduct.basic = Some("Basic bWU6aHVudGVyMg==".to_owned()));
    let registry = in_front_of(&fake.url(), &credentials(&directory, "hunter2\n")).await;
    let digest = fake.put_blob(&content(1000, 1));
    assert_eq!(registry.get(TAG).await.status(), StatusCode::OK);
    let got = registry.get(&format!("/v2/hub/library/web/blobs/{digest}")).await;
    assert_eq!(got.status(), StatusCode::OK);
    let bare = fake.seen().into_iter().filter(|seen| seen.authorization.is_none());
    assert_eq!(bare.count(), 1);

    let registry = in_front_of(&fake.url(), &credentials(&directory, "wrong")).await;
    let asked = fake.seen().len();
    assert_eq!(refusal(registry.get(TAG).await).await, refused(403, "DENIED"));
    // Nothing is tried again and again with what is wrong.
    assert_eq!(fake.seen().len(), asked + 2);
    let anonymous = in_front_of(&fake.url(), "").await;
    assert_eq!(refusal(anonymous.get(TAG).await).await, refused(403, "DENIED"));
}

#[tokio::test]
async fn a_token_that_ends_in_mid_blob_is_fetched_anew() {
    let (fake, registry) = fronted("").await;
    let bearer = |token: &str| {
        let (realm, token) = (format!("{}/token", fake.url()), token.to_owned());
        fake.conduct(|conduct| conduct.bearer = Some(Bearer { realm, token }));
    };
    bearer("first");
    let blob = content(1_000_000, 2);
    let digest = fake.put_blob(&blob);
    fake.conduct(|conduct| conduct.cut_after = vec![400_000]);
    fake.release(200_000);
    let got = registry.get(&format!("/v2/hub/library/web/blobs/{digest}")).await;
    assert_eq!(got.status(), StatusCode::OK);
    bearer("second");
    fake.release(usize::MAX);
    assert!(got.bytes().await.unwrap() == blob);
    assert_eq!(fake.count("GET", "/token"), 2);
}

#[tokio::test]
async fn a_token_without_measure_is_not_read() {
    let (fake, registry) = fronted("").await;
    put_manifest(&fake);
    let bearer = Bearer { realm: format!("{}/token", fake.url()), token: "t".to_owned() };
    fake.conduct(|conduct| {
        conduct.bearer = Some(bearer);
        conduct.token_padding = 300 * 1024;
    });
    assert_eq!(refusal(registry.get(TAG).await).await, refused(502, "UNAVAILABLE"));
    fake.conduct(|conduct| conduct.token_padding = 0);
    assert_eq!(registry.get(TAG).await.status(), StatusCode::OK);
}
