//! Two regions on two S3 servers, of which one goes away and comes back.

use std::time::Duration;

use longshore_tests::testkit::error::LabError;
use longshore_tests::testkit::object_servers::ObjectServer;
use longshore_tests::testkit::process::Process;
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Loopback, Origin, Result, Settings, Site};
use reqwest::Method;
use rustix::process::Signal;

use crate::client::{Client, lost};
use crate::harness::{Stage, on};

const REPOSITORY: &str = "team/app";
/// Longer than a failover and a catching up take.
const CHANGE_DEADLINE: Duration = Duration::from_secs(90);
/// containerd waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

async fn readiness(origin: &Origin) -> Result<String> {
    let url = format!("http://{}/readyz", origin.admin());
    let answer = reqwest::get(url).await.map_err(|error| lost(&error))?;
    answer.text().await.map_err(|error| lost(&error))
}

/// Waits until readiness says so.
pub(crate) async fn ready(origin: &Origin, what: &str, says: impl Fn(&str) -> bool) -> Result<()> {
    until(what, CHANGE_DEADLINE, async || {
        let text = readiness(origin).await?;
        Ok(if says(&text) { Seen::Yes(()) } else { Seen::NotYet(text) })
    })
    .await
}

/// A configuration of two regions, of which the first is everybody's home.
pub(crate) fn regions(home: &ObjectServer, other: &ObjectServer) -> String {
    let region = |name: &str, server: &ObjectServer, default: bool| {
        let (url, endpoint) = (server.url(), server.endpoint());
        format!(
            "[[regions.region]]\nname = \"{name}\"\ndefault = {default}\n\
             storage.url = \"{url}\"\nstorage.endpoint = \"{endpoint}\"\n\
             storage.allow_http = true\n"
        )
    };
    format!("{}{}", region("eu", home, true), region("us", other, false))
}

/// Waits until nothing is owed to the first region's replica.
pub(crate) async fn replicated(origin: &Origin) -> Result<()> {
    until("the replica is whole", CHANGE_DEADLINE, async || {
        let url = format!("http://{}/metrics", origin.admin());
        let text = reqwest::get(url).await.map_err(|error| lost(&error))?.text().await;
        let text = text.map_err(|error| lost(&error))?;
        let queue = "longshore_registry_region_replication_queue{region=\"eu\"} 0";
        let whole = text.lines().any(|line| line == queue);
        Ok(if whole { Seen::Yes(()) } else { Seen::NotYet("a queue".to_owned()) })
    })
    .await
}

/// How a store goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// It takes connections and says nothing.
    StandsStill,
    /// It is gone, and connections are refused.
    Killed,
}

impl Outage {
    async fn begin(self, server: &ObjectServer) -> Result<()> {
        match self {
            Self::StandsStill => server.process().signal(Signal::STOP),
            Self::Killed => server.process().kill().await.map(|_| ()),
        }
    }

    /// What is returned runs the server from then on.
    async fn end(self, server: &ObjectServer, site: &Site) -> Result<Option<Process>> {
        match self {
            Self::StandsStill => server.process().signal(Signal::CONT).map(|()| None),
            Self::Killed => server.start_again(site).await.map(Some),
        }
    }
}

/// The tag's digest, and whether the answer says that it may be old.
async fn tagged(client: &Client) -> Result<(String, bool)> {
    let head = client.send(Method::HEAD, &format!("/v2/{REPOSITORY}/manifests/latest")).await?;
    assert_eq!(head.status(), 200, "{head:?}");
    let digest = crate::client::header(&head, "docker-content-digest")?;
    Ok((digest, head.headers().contains_key("warning")))
}

/// An instance that starts without the primary serves what the replica has, and of what it does not
/// find it says no more than it knows.
async fn starts_in_the_outage(origin: &Origin, known: &str) -> Result<()> {
    let text = readiness(origin).await?;
    assert!(text.contains("region eu failed over to us"), "{text}");
    let client = Client::new(origin)?;
    assert_eq!(tagged(&client).await?, (known.to_owned(), true));
    let absent = client.get(&format!("/v2/{REPOSITORY}/manifests/absent")).await?;
    assert_eq!(absent.status(), 503, "{absent:?}");
    crate::client::header(&absent, "retry-after")?;
    let (digest, put) = client.push_manifest(REPOSITORY, "late", "late").await?;
    assert_eq!(put.status(), 201);
    let head = client.send(Method::HEAD, &format!("/v2/{REPOSITORY}/manifests/{digest}")).await?;
    assert_eq!(head.status(), 200);
    Ok(())
}

async fn survives(stage: &Stage, outage: Outage) -> Result<()> {
    let nothing = || LabError::Unexpected("no server behind the store".to_owned());
    let eu = stage.store.server().ok_or_else(nothing)?;
    let elsewhere = Loopback::start()?;
    let us = ObjectServer::start(&Site::Loopback(elsewhere.clone()), eu.kind()).await?;
    let mut settings = Settings::default();
    settings.set("cache.tag_fresh_ms", 0).set("regions.timeout_ms", 2000);
    let (loopback, store, file) = (&stage.loopback, &stage.store, regions(eu, &us));
    let origin = Origin::start_from(loopback, store, "registry", &settings, &file).await?;
    let client = Client::new(&origin)?;
    let layer: Vec<u8> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
    let blob = client.push_blob(REPOSITORY, &[&layer]).await?;
    let (before, put) = client.push_manifest(REPOSITORY, "latest", "before").await?;
    assert_eq!(put.status(), 201);
    replicated(&origin).await?;

    assert_eq!(tagged(&client).await?, (before.to_string(), false));
    outage.begin(eu).await?;
    let manifest = format!("/v2/{REPOSITORY}/manifests/latest");
    let read = tokio::time::timeout(PATIENCE, client.get(&manifest)).await;
    let read = read.map_err(|_| LabError::Unexpected("no answer in time".to_owned()))??;
    assert_eq!(read.status(), 200, "{read:?}");
    ready(&origin, "a failover", |text| text.contains("region eu failed over to us")).await?;
    let redirect = client.get(&format!("/v2/{REPOSITORY}/blobs/{blob}")).await?;
    assert_eq!(redirect.status(), 307, "{redirect:?}");
    let location = crate::client::header(&redirect, "location")?;
    assert!(location.starts_with(us.endpoint()), "clients are sent to the store that is away");
    let bytes = client.get(&location).await?.bytes().await.map_err(|error| lost(&error))?;
    assert!(bytes == layer, "the replica gave {} bytes", bytes.len());
    let mut last = before;
    for text in ["first", "second"] {
        let (digest, put) = client.push_manifest(REPOSITORY, "latest", text).await?;
        assert_eq!(put.status(), 201, "{text}");
        last = digest;
    }
    let during = client.push_blob(REPOSITORY, &[b"pushed during the outage"]).await?;
    assert_eq!(tagged(&client).await?, (last.to_string(), true));
    let late = Origin::start_from(loopback, store, "late", &settings, &file).await?;
    starts_in_the_outage(&late, &last.to_string()).await?;

    let _again = outage.end(eu, &Site::Loopback(loopback.clone())).await?;
    for origin in [&origin, &late] {
        ready(origin, "the return", |text| text == "ok\n").await?;
    }
    assert_eq!(tagged(&client).await?.0, last.to_string());
    late.stop().await?;
    origin.stop().await?;
    // What the primary has is all that a registry without regions can see.
    let alone = Origin::start_with(loopback, store, "alone", &Settings::default()).await?;
    let client = Client::new(&alone)?;
    assert_eq!(tagged(&client).await?, (last.to_string(), false));
    for blob in [blob, during] {
        let head = client.send(Method::HEAD, &format!("/v2/{REPOSITORY}/blobs/{blob}")).await?;
        assert_eq!(head.status(), 200, "{blob}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moto_that_stands_still_is_survived_and_gets_what_it_missed() {
    on(Backend::Moto, async |stage| survives(stage, Outage::StandsStill).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garage_that_stands_still_is_survived_and_gets_what_it_missed() {
    on(Backend::Garage, async |stage| survives(stage, Outage::StandsStill).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garage_that_is_killed_is_survived_and_gets_what_it_missed() {
    on(Backend::Garage, async |stage| survives(stage, Outage::Killed).await).await;
}
