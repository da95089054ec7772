//! Whom the registry asks, and to whom it shows its credentials.

use futures::future::join_all;
use http::StatusCode;
use longshore_proto::media_type;

use super::fake::{Bearer, Fake};
use super::{fronted, in_front_of};
use crate::common::{TestRegistry, content, header, image_manifest, refusal, refused};

const TAG: &str = "/v2/hub/library/web/manifests/v1";

fn wants(fake: &Fake, realm: &Fake) {
    let bearer = Bearer { realm: format!("{}/token", realm.url()), token: "t0ken".to_owned() };
    fake.conduct(|conduct| conduct.bearer = Some(bearer.clone()));
    realm.conduct(|conduct| {
        conduct.bearer = Some(bearer);
    });
}

fn put_manifest(fake: &Fake) {
    let manifest = image_manifest(b"{}", &[]);
    fake.put_manifest("library/web", "v1", media_type::OCI_MANIFEST, &manifest);
}

/// Settings with credentials whose password lies in a file.
fn credentials(directory: &tempfile::TempDir) -> String {
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    format!("username = \"me\"\npassword_file = \"{}\"\n", file.display())
}

#[tokio::test]
async fn a_token_is_fetched_once_and_shown() {
    let (fake, directory) = (Fake::start().await, tempfile::tempdir().unwrap());
    let registry = in_front_of(&fake.url(), &credentials(&directory)).await;
    wants(&fake, &fake);
    let digests: Vec<_> = (0..20).map(|seed| fake.put_blob(&content(1000, seed))).collect();
    let get =
        async |digest| registry.get(&format!("/v2/hub/library/web/blobs/{digest}")).await.status();
    let all = join_all(digests.into_iter().map(get)).await;
    assert!(all.into_iter().all(|status| status == StatusCode::OK));
    assert_eq!(fake.count("GET", "/token"), 1);
    let token = fake.seen().into_iter().find(|seen| seen.path.starts_with("/token")).unwrap();
    assert!(token.path.contains("scope=repository%3Alibrary%2Fweb%3Apull"), "{}", token.path);
    assert_eq!(token.authorization.as_deref(), Some("Basic bWU6aHVudGVyMg=="));
}

#[tokio::test]
async fn a_foreign_token_server_gets_nothing_unless_it_is_allowed() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), Fake::start().await);
    let (fake, registry) = fronted(&credentials(&directory)).await;
    put_manifest(&fake);
    wants(&fake, &elsewhere);
    assert_eq!(refusal(registry.get(TAG).await).await, refused(403, "DENIED"));
    assert_eq!(elsewhere.seen(), []);

    let realms = format!("realms = [\"{}\"]\n", elsewhere.authority());
    let registry = in_front_of(&fake.url(), &(credentials(&directory) + &realms)).await;
    assert_eq!(registry.get(TAG).await.status(), StatusCode::OK);
    assert_eq!(elsewhere.count("GET", "/token"), 1);
}

#[tokio::test]
async fn credentials_stay_behind_at_a_redirect() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), Fake::start().await);
    let redirects = format!("redirects = [\"{}\"]\n", elsewhere.authority());
    let (fake, registry) = fronted(&(credentials(&directory) + &redirects)).await;
    wants(&fake, &fake);
    let blob = content(300_000, 1);
    let digest = fake.put_blob(&blob);
    elsewhere.put_blob(&blob);
    fake.conduct(|conduct| conduct.redirect = Some(elsewhere.url()));
    let got = registry.get(&format!("/v2/hub/library/web/blobs/{digest}")).await;
    assert!(got.bytes().await.unwrap() == blob);
    let seen = elsewhere.seen();
    assert_eq!((seen.len(), seen[0].authorization.as_deref()), (1, None));
    // One that leads back to itself has an end.
    elsewhere.conduct(|conduct| conduct.redirect = Some(elsewhere.url()));
    let other = fake.put_blob(b"other");
    let got = registry.get(&format!("/v2/hub/library/web/blobs/{other}")).await;
    assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"));
    assert!(elsewhere.seen().len() <= 1 + 5);
}

#[tokio::test]
async fn a_redirect_to_a_private_host_is_not_followed() {
    let elsewhere = Fake::start().await;
    let (fake, registry) = fronted("").await;
    let blob = content(300_000, 1);
    let digest = fake.put_blob(&blob);
    elsewhere.put_blob(&blob);
    let port = elsewhere.authority().split_once(':').unwrap().1.to_owned();
    for host in
        [elsewhere.url(), format!("http://localhost:{port}"), format!("http://[::1]:{port}")]
    {
        fake.conduct(|conduct| conduct.redirect = Some(host.clone()));
        let got = registry.get(&format!("/v2/hub/library/web/blobs/{digest}")).await;
        assert_eq!(refusal(got).await, refused(502, "UNAVAILABLE"), "{host}");
    }
    assert_eq!(elsewhere.seen(), []);
}

#[tokio::test]
async fn only_configured_namespaces_are_asked() {
    let (fake, registry) = fronted("").await;
    put_manifest(&fake);
    let by_ns = "/v2/library/web/manifests/v1?ns=";
    let got = registry.get(&format!("{by_ns}docker.io")).await;
    assert_eq!(got.status(), StatusCode::OK);
    let digest = header(&got, "docker-content-digest");
    assert_eq!(header(&registry.get(TAG).await, "docker-content-digest"), digest);
    let asked = fake.seen().len();
    for unknown in [fake.authority(), "169.254.169.254".to_owned(), "evil.example".to_owned()] {
        let got = registry.get(&format!("{by_ns}{unknown}")).await;
        assert_eq!(refusal(got).await, refused(404, "NAME_UNKNOWN"), "{unknown}");
    }
    // Without ns the name is this registry's own.
    let own = registry.get("/v2/library/web/manifests/v1").await;
    assert_eq!(refusal(own).await, refused(404, "MANIFEST_UNKNOWN"));
    assert_eq!(fake.seen().len(), asked);
}

#[tokio::test]
async fn a_refusal_is_believed_for_the_time_that_is_configured() {
    let fake = Fake::start().await;
    let _already = rustls::crypto::ring::default_provider().install_default();
    let one = super::upstream(&fake.url(), "");
    let registry = TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.absent_s = 60;
    })
    .await;
    for _ in 0..3 {
        assert_eq!(refusal(registry.get(TAG).await).await, refused(404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(fake.seen().len(), 1);
}
