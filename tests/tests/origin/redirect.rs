//! Blobs that clients read from the store itself.

use std::time::Duration;

use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Origin, Result, Settings};
use reqwest::Method;
use reqwest::header::{IF_RANGE, LOCATION, RANGE};

use crate::client::{Client, header, lost};
use crate::harness::{Stage, on};

/// Two copies of 12 MB through servers that share the machine with everything else.
const COMPOSE_DEADLINE: Duration = Duration::from_secs(60);
const REPOSITORY: &str = "team/app";

async fn with(stage: &Stage, settings: &[(&str, &str)]) -> Result<(Origin, Client)> {
    let mut all = Settings::default();
    for (key, value) in settings {
        all.set(key, value);
    }
    let origin = Origin::start_with(&stage.loopback, &stage.store, "registry", &all).await?;
    let client = Client::new(&origin)?;
    Ok((origin, client))
}

/// The store gives whole and in ranges what was pushed; the registry keeps what is not a plain GET.
async fn leads_to_the_store(backend: Backend) {
    on(backend, async |stage| {
        let (origin, client) = with(stage, &[("storage.compose", "false")]).await?;
        let content: Vec<u8> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
        let digest = client.push_blob(REPOSITORY, &[&content]).await?;
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");

        let answer = client.get(&path).await?;
        assert_eq!(answer.status(), 307, "{answer:?}");
        assert_eq!(header(&answer, "docker-content-digest")?, digest.to_string());
        let location = header(&answer, LOCATION.as_str())?;
        let endpoint = stage.store.server().map(|server| server.endpoint().to_owned());
        assert!(location.starts_with(&endpoint.unwrap_or_default()), "not to the store");
        let whole = client.get(&location).await?.bytes().await.map_err(|error| lost(&error))?;
        assert!(whole == content, "the store gave {} bytes", whole.len());
        let part = client.request(Method::GET, &location).header(RANGE, "bytes=5000000-5000009");
        let part = part.send().await.map_err(|error| lost(&error))?;
        assert_eq!(part.status(), 206);
        let part = part.bytes().await.map_err(|error| lost(&error))?;
        assert_eq!(part, content[5_000_000..5_000_010]);

        let head = client.send(Method::HEAD, &path).await?;
        assert_eq!(head.status(), 200);
        assert_eq!(header(&head, "content-length")?, content.len().to_string());
        let resumed = client.request(Method::GET, &path).header(RANGE, "bytes=9-");
        let resumed = resumed.header(IF_RANGE, header(&head, "etag")?);
        assert_eq!(resumed.send().await.map_err(|error| lost(&error))?.status(), 206);
        let beyond = client.request(Method::GET, &path).header(RANGE, "bytes=6000000-");
        assert_eq!(beyond.send().await.map_err(|error| lost(&error))?.status(), 416);

        let parts = client.push_blob(REPOSITORY, &[b"first", b"second"]).await?;
        let sent = client.get(&format!("/v2/{REPOSITORY}/blobs/{parts}")).await?;
        assert_eq!(
            sent.status(),
            200,
            "a blob of several segments is sent from here where it stays so"
        );
        assert_eq!(sent.text().await.map_err(|error| lost(&error))?, "firstsecond");

        let log = std::fs::read_to_string(origin.process().log()).unwrap_or_default();
        for (name, value) in stage.store.environment() {
            let secret = name.contains("SECRET") || name.ends_with("ACCOUNT_KEY");
            assert!(!secret || !log.contains(value), "{name} is in the log");
        }
        assert!(!log.contains("X-Amz-Signature"), "a signature is in the log");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_to_garage() {
    leads_to_the_store(Backend::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_to_moto() {
    leads_to_the_store(Backend::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_to_azurite() {
    leads_to_the_store(Backend::Azurite).await;
}

/// A blob of several requests is sent from here at first; once its segments are one object, every
/// instance leads to that.
async fn is_composed(backend: Backend) {
    on(backend, async |stage| {
        let (origin, client) = with(stage, &[]).await?;
        let content: Vec<u8> = (0..12_000_000_u32).map(|i| (i % 241) as u8).collect();
        let (first, rest) = content.split_at(5_300_000);
        let (second, last) = rest.split_at(1000);
        let digest = client.push_blob(REPOSITORY, &[first, second, last]).await?;
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let location = until("a redirect", COMPOSE_DEADLINE, async || {
            let answer = client.get(&path).await?;
            if answer.status() == 307 {
                return Ok(Seen::Yes(header(&answer, LOCATION.as_str())?));
            }
            let sent = answer.bytes().await.map_err(|error| lost(&error))?;
            assert!(sent == content, "{} bytes were sent meanwhile", sent.len());
            Ok(Seen::NotYet("the blob itself".to_owned()))
        })
        .await?;
        let whole = client.get(&location).await?.bytes().await.map_err(|error| lost(&error))?;
        assert!(whole == content, "the store gave {} bytes", whole.len());
        let metrics = until("one attempt", COMPOSE_DEADLINE, async || {
            let metrics = origin.metrics().await?;
            Ok(match metrics.sum("longshore_registry_compose_blobs_total") {
                1 => Seen::Yes(metrics),
                other => Seen::NotYet(format!("{other} attempts")),
            })
        });
        let bytes = metrics.await?.sum("longshore_registry_compose_bytes_total");
        assert_eq!(bytes, content.len() as u64);

        let settings = Settings::default();
        let another = Origin::start_with(&stage.loopback, &stage.store, "another", &settings);
        let another = another.await?;
        assert_eq!(Client::new(&another)?.get(&path).await?.status(), 307);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_several_requests_is_composed_on_garage() {
    is_composed(Backend::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_several_requests_is_composed_on_moto() {
    is_composed(Backend::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_several_requests_is_composed_on_azurite() {
    is_composed(Backend::Azurite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_can_be_off_and_can_name_another_address() {
    on(Backend::Moto, async |stage| {
        let (origin, client) = with(stage, &[("storage.redirect", "false")]).await?;
        let digest = client.push_blob(REPOSITORY, &[b"content"]).await?;
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        assert_eq!(client.get(&path).await?.status(), 200);
        origin.stop().await?;
        let elsewhere = ("storage.redirect_endpoint", "https://layers.example");
        let (_origin, client) = with(stage, &[elsewhere]).await?;
        let location = header(&client.get(&path).await?, LOCATION.as_str())?;
        assert!(location.starts_with("https://layers.example/"), "not where clients reach it");
        Ok(())
    })
    .await;
}
