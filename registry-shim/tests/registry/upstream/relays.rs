//! Pushes that go on to the upstream while they come: nothing is lost when that fails, and nothing
//! is visible before its digest was verified.

use bytes::Bytes;
use futures::stream;
use http::{Method, StatusCode};
use longshore_proto::Digest;
use reqwest::Response;
use reqwest::header::LOCATION;
use tokio::sync::mpsc;

use super::fake::{Bearer, Fake};
use super::{fronted, upstream};
use crate::common::{TestRegistry, content, header, refusal, refused, sha256, until};

const MIB: usize = 1024 * 1024;
const PASS: &str = "push = \"pass\"\n";

async fn patch(
    registry: &TestRegistry,
    location: &str,
    body: impl Into<reqwest::Body>,
) -> Response {
    registry.request(Method::PATCH, location).body(body).send().await.unwrap()
}

async fn put(registry: &TestRegistry, location: &str, digest: Digest, body: Vec<u8>) -> Response {
    let path = format!("{location}?digest={digest}");
    registry.request(Method::PUT, &path).body(body).send().await.unwrap()
}

/// As [`patch`], taken; where the upload goes on.
async fn patched(registry: &TestRegistry, location: &str, bytes: &[u8]) -> String {
    let patched = patch(registry, location, bytes.to_vec()).await;
    assert_eq!(patched.status(), StatusCode::ACCEPTED);
    header(&patched, LOCATION.as_str())
}

/// An upload that has those bytes; where it goes on.
async fn begun(registry: &TestRegistry, bytes: &[u8]) -> String {
    let location = registry.begin_upload("hub/a").await;
    patched(registry, &location, bytes).await
}

/// Requests of pushes that the upstream saw: those that open, bring bytes, and close.
fn steps(fake: &Fake) -> (usize, usize, usize) {
    (fake.count("POST", "/"), fake.count("PATCH", "/"), fake.count("PUT", "/"))
}

/// A body that ends when its sender says so.
fn by_hand() -> (mpsc::Sender<Bytes>, reqwest::Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| {
        Some((Ok::<_, std::io::Error>(receiver.recv().await?), receiver))
    });
    (sender, reqwest::Body::wrap_stream(pieces))
}

async fn relays(registry: &TestRegistry, outcome: &str) -> u64 {
    let labels = format!("upstream=\"hub\",outcome=\"{outcome}\"");
    registry.metric(&format!("longshore_registry_upstream_relays_total{{{labels}}}")).await
}

/// The blob is at the upstream, and here without it.
async fn assert_at_both(fake: &Fake, registry: &TestRegistry, blob: &[u8]) {
    let digest = sha256(blob);
    assert!(fake.blob(&digest).unwrap() == blob);
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    let got = registry.get(&format!("/v2/hub/a/blobs/{digest}")).await;
    assert_eq!(got.status(), StatusCode::OK);
    assert!(got.bytes().await.unwrap() == blob);
    fake.conduct(|conduct| conduct.status = None);
}

#[tokio::test]
async fn bytes_go_on_while_they_come_and_an_empty_request_closes() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(6 * MIB, 1);
    let location = registry.begin_upload("hub/a").await;
    let (pieces, body) = by_hand();
    let patching = patch(&registry, &location, body);
    let sending = async {
        for piece in blob[..3 * MIB].chunks(MIB) {
            pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        until("half of it is there", async || fake.uploaded() == 3 * MIB).await;
        for piece in blob[3 * MIB..].chunks(MIB) {
            pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(pieces);
    };
    let (patched, ()) = futures::join!(patching, sending);
    assert_eq!(patched.status(), StatusCode::ACCEPTED);
    assert_eq!(fake.blob(&sha256(&blob)), None);
    let location = header(&patched, LOCATION.as_str());
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    assert_eq!(steps(&fake), (1, 1, 1));
    assert_eq!((relays(&registry, "ok").await, fake.open_uploads()), (1, 0));
    assert_at_both(&fake, &registry, &blob).await;
}

#[tokio::test]
async fn one_request_of_many_bytes_goes_on_as_it_comes() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(3 * MIB, 2);
    let digest = registry.push_blob("hub/a", &blob).await;
    assert_eq!(steps(&fake), (1, 1, 1));
    assert_at_both(&fake, &registry, &blob).await;
    // What the upstream has is not sent again.
    let path = format!("/v2/hub/a/blobs/uploads/?digest={digest}");
    let again = registry.request(Method::POST, &path).body(blob).send().await.unwrap();
    assert_eq!((again.status(), fake.count("POST", "/")), (StatusCode::CREATED, 1));
}

#[tokio::test]
async fn another_instance_goes_on_with_what_was_passed_on() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(2 * MIB, 3);
    let location = begun(&registry, &blob[..MIB]).await;
    let one = upstream(&fake.url(), PASS);
    let registry = registry.restart_with(|config| config.upstream.registry = vec![one]).await;
    let location = patched(&registry, &location, &blob[MIB..]).await;
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    assert_eq!(steps(&fake), (1, 2, 1));
    assert_at_both(&fake, &registry, &blob).await;
}

#[tokio::test]
async fn an_upload_that_stands_elsewhere_than_it_should_is_not_gone_on_with() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(2 * MIB, 12);
    let location = begun(&registry, &blob[..MIB]).await;
    fake.lose_uploaded(1);
    let patched = patch(&registry, &location, blob[MIB..].to_vec()).await;
    assert_eq!(patched.status(), StatusCode::ACCEPTED);
    assert_eq!(fake.count("PATCH", "/"), 1);
    let location = header(&patched, LOCATION.as_str());
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    assert_at_both(&fake, &registry, &blob).await;
}

#[tokio::test]
async fn what_could_not_go_on_is_sent_at_the_end() {
    for code in [404, 405, 416, 500, 503] {
        let (fake, registry) = fronted(PASS).await;
        fake.conduct(|conduct| conduct.patch_status = Some(code));
        let blob = content(3 * MIB, 4);
        let location = registry.begin_upload("hub/a").await;
        let patched = patch(&registry, &location, blob.clone()).await;
        assert_eq!(patched.status(), StatusCode::ACCEPTED, "{code}");
        assert_eq!(relays(&registry, "ok").await, 0, "{code}");
        let location = header(&patched, LOCATION.as_str());
        let put = put(&registry, &location, sha256(&blob), Vec::new()).await;
        assert_eq!(put.status(), StatusCode::CREATED, "{code}");
        assert_at_both(&fake, &registry, &blob).await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_and_goes_on_loses_nothing() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(4 * MIB, 5);
    let location = registry.begin_upload("hub/a").await;
    let (pieces, body) = by_hand();
    let sending = async {
        pieces.send(Bytes::copy_from_slice(&blob[..MIB])).await.unwrap();
        until("the upstream has it", async || fake.uploaded() == MIB).await;
    };
    tokio::select! {
        _ = patch(&registry, &location, body) => panic!("it does not end"),
        () = sending => {}
    }
    let mut offset = 0;
    until("what came is kept", async || {
        let status = registry.get(&location).await;
        let (_, last) = header(&status, "range")
            .split_once('-')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        offset = last.parse::<usize>().unwrap() + 1;
        offset > 1
    })
    .await;
    let patched = patch(&registry, &location, blob[offset..].to_vec()).await;
    assert_eq!(patched.status(), StatusCode::ACCEPTED);
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    assert_at_both(&fake, &registry, &blob).await;
}

#[tokio::test]
async fn what_is_not_its_digest_is_visible_nowhere_and_taken_back() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(2 * MIB, 6);
    let location = begun(&registry, &blob).await;
    assert_eq!(fake.open_uploads(), 1);
    let refusal_of = refusal(put(&registry, &location, sha256(b"other"), Vec::new()).await).await;
    assert_eq!(refusal_of, refused(400, "DIGEST_INVALID"));
    until("the upload there is cancelled", async || fake.open_uploads() == 0).await;
    assert_eq!((fake.count("PUT", "/"), fake.blob(&sha256(&blob))), (0, None));
    // The client's own end.
    let location = begun(&registry, &blob).await;
    assert_eq!(fake.open_uploads(), 1);
    assert_eq!(registry.delete(&location).await.status(), StatusCode::NO_CONTENT);
    until("that one too", async || fake.open_uploads() == 0).await;
}

#[tokio::test]
async fn a_token_that_ends_between_two_requests_is_fetched_anew() {
    let (fake, registry) = fronted(PASS).await;
    let bearer = |token: &str| {
        let (realm, token) = (format!("{}/token", fake.url()), token.to_owned());
        fake.conduct(|conduct| conduct.bearer = Some(Bearer { realm, token }));
    };
    bearer("first");
    let blob = content(3 * MIB, 7);
    let location = begun(&registry, &blob[..MIB]).await;
    assert_eq!(relays(&registry, "ok").await, 1);
    bearer("second");
    let location = patched(&registry, &location, &blob[MIB..]).await;
    bearer("third");
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    fake.conduct(|conduct| conduct.bearer = None);
    // The opening, that which was refused with the old token, and none for want of a new one.
    assert_eq!((fake.count("PATCH", "/"), fake.count("POST", "/")), (2, 2));
    assert_at_both(&fake, &registry, &blob).await;
}

#[tokio::test]
async fn a_registry_that_may_not_push_says_so_before_the_end() {
    let (fake, registry) = fronted(PASS).await;
    let blob = content(2 * MIB, 8);
    let location = registry.begin_upload("hub/a").await;
    fake.conduct(|conduct| conduct.status = Some((403, None)));
    let patched = patch(&registry, &location, blob.clone()).await;
    assert_eq!(refusal(patched).await, refused(403, "DENIED"));
    fake.conduct(|conduct| conduct.status = None);
    assert_eq!(registry.head(&format!("/v2/hub/a/blobs/{}", sha256(&blob))).await.status(), 404);
}

#[tokio::test]
async fn uploads_may_be_elsewhere_and_credentials_stay_behind() {
    let (elsewhere, blob) = (Fake::start().await, content(3 * MIB, 9));
    let allowed = format!("{PASS}redirects = [\"{}\"]\n", elsewhere.authority());
    let (fake, registry) = fronted(&allowed).await;
    let bearer = Bearer { realm: format!("{}/token", fake.url()), token: "t0ken".to_owned() };
    fake.conduct(|conduct| {
        conduct.bearer = Some(bearer);
        conduct.uploads_at = Some(elsewhere.url());
    });
    elsewhere.conduct(|conduct| conduct.uploads_at = Some(elsewhere.url()));
    registry.push_blob("hub/a", &blob).await;
    assert!(elsewhere.blob(&sha256(&blob)).unwrap() == blob);
    assert!(elsewhere.seen().iter().all(|seen| seen.authorization.is_none()));

    // Nobody allowed that host.
    let (fake, registry) = fronted(PASS).await;
    let seen = elsewhere.seen().len();
    fake.conduct(|conduct| conduct.uploads_at = Some(elsewhere.url()));
    let location = registry.begin_upload("hub/a").await;
    let refusal_of = refusal(put(&registry, &location, sha256(&blob), blob.clone()).await).await;
    assert_eq!(refusal_of, refused(502, "UNAVAILABLE"));
    assert_eq!(elsewhere.seen().len(), seen);
    assert_eq!(registry.head(&format!("/v2/hub/a/blobs/{}", sha256(&blob))).await.status(), 404);
}

#[tokio::test]
async fn a_redirect_of_bytes_is_followed_with_all_of_them() {
    let elsewhere = Fake::start().await;
    let allowed = format!("{PASS}redirects = [\"{}\"]\n", elsewhere.authority());
    let (fake, registry) = fronted(&allowed).await;
    fake.conduct(|conduct| conduct.upload_redirect = Some(elsewhere.url()));
    let blob = content(3 * MIB, 10);
    registry.push_blob("hub/a", &blob).await;
    assert!(elsewhere.blob(&sha256(&blob)).unwrap() == blob);
}

#[tokio::test]
async fn an_upstream_that_does_not_close_in_time_goes_on_and_its_client_comes_back() {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let fake = Fake::start().await;
    let one = upstream(&fake.url(), PASS);
    let registry = TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.push_wait_s = 1;
    })
    .await;
    fake.conduct(|conduct| conduct.never_closes = true);
    let blob = content(2 * MIB, 11);
    let location = begun(&registry, &blob).await;
    let late = put(&registry, &location, sha256(&blob), Vec::new()).await;
    assert_eq!(header(&late, "retry-after"), "10");
    assert_eq!(refusal(late).await, refused(503, "UNAVAILABLE"));
    assert_eq!(registry.get(&location).await.status(), StatusCode::NO_CONTENT);
    // The upstream takes it in the end, sent once, and the upload closes.
    fake.conduct(|conduct| conduct.never_closes = false);
    assert_eq!(put(&registry, &location, sha256(&blob), Vec::new()).await.status(), 201);
    assert_eq!((fake.count("POST", "/"), fake.count("PUT", "/")), (1, 1));
    assert_at_both(&fake, &registry, &blob).await;
}
