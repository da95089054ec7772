//! Immutable tags, which stand on a store that refuses a second Create.

use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Origin, Settings};
use reqwest::Method;
use std::time::Duration;

use crate::client::Client;
use crate::harness::on;

fn immutable() -> Settings {
    let mut settings = Settings::default();
    settings.set("storage.immutable_tags", "prod/*:*,*:v?");
    settings
}

async fn a_tag_is_pushed_once(backend: Backend) {
    on(backend, async |stage| {
        let settings = immutable();
        let origin = Origin::start_with(&stage.loopback, &stage.store, "registry", &settings);
        let origin = origin.await?;
        let client = Client::new(&origin)?;
        for (repository, tag) in [("prod/app", "latest"), ("team/app", "v1")] {
            let (first, pushed) = client.push_manifest(repository, tag, "first").await?;
            assert_eq!(pushed.status(), 201);
            let (_, again) = client.push_manifest(repository, tag, "first").await?;
            assert_eq!(again.status(), 201, "the same manifest is no move");
            let (_, moved) = client.push_manifest(repository, tag, "second").await?;
            assert_eq!(moved.status(), 409);
            let refusal = moved.text().await.unwrap_or_default();
            assert!(
                refusal.contains("DENIED") && refusal.contains(&first.to_string()),
                "{refusal}"
            );
            let path = format!("/v2/{repository}/manifests/{tag}");
            assert_eq!(client.send(Method::DELETE, &path).await?.status(), 409);
            let named = client.send(Method::HEAD, &path).await?;
            assert_eq!(named.headers()["docker-content-digest"], first.to_string().as_str());
        }
        for text in ["first", "second"] {
            let (_, pushed) = client.push_manifest("team/app", "latest", text).await?;
            assert_eq!(pushed.status(), 201, "other tags move");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_is_pushed_once_on_a_directory() {
    a_tag_is_pushed_once(Backend::Directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_is_pushed_once_on_moto() {
    a_tag_is_pushed_once(Backend::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_is_pushed_once_on_azurite() {
    a_tag_is_pushed_once(Backend::Azurite).await;
}

/// Two instances race for one tag: exactly one digest wins, and both agree on it.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_that_race_for_a_tag_one_wins() {
    on(Backend::Moto, async |stage| {
        let (place, store) = (&stage.loopback, &stage.store);
        let settings = immutable();
        let first = Origin::start_with(place, store, "first", &settings).await?;
        let second = Origin::start_with(place, store, "second", &settings).await?;
        let clients = [Client::new(&first)?, Client::new(&second)?];
        for round in 0..4 {
            let tag = format!("round-{round}");
            let pushes = clients.iter().zip(["one", "two"]);
            let pushes = pushes.map(|(client, text)| client.push_manifest("prod/app", &tag, text));
            let ended = futures::future::try_join_all(pushes).await?;
            let won: Vec<_> = ended.iter().filter(|(_, answer)| answer.status() == 201).collect();
            assert_eq!(won.len(), 1, "{ended:?}");
            for client in &clients {
                let path = format!("/v2/prod/app/manifests/{tag}");
                let named = client.send(Method::HEAD, &path).await?;
                assert_eq!(named.headers()["docker-content-digest"], won[0].0.to_string().as_str());
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_overwrites_is_refused_for_them_in_one_line() {
    on(Backend::Garage, async |stage| {
        let process = Origin::spawn(&stage.loopback, &stage.store, "registry", &immutable(), "")?;
        let status = process.wait(Duration::from_secs(60)).await?;
        assert_eq!(status.code(), Some(64), "{}", process.tail());
        let log = until("the reason", Duration::from_secs(5), async || {
            let log = process.tail();
            let said = log.contains("storage.immutable_tags: s3://longshore overwrites");
            Ok(if said { Seen::Yes(log) } else { Seen::NotYet(log) })
        });
        let log = log.await?;
        assert!(log.contains("conditional_create=false"), "{log}");
        Ok(())
    })
    .await;
}
