//! A store that goes away under a quota, and one that is failed over.

use std::time::Duration;

use longshore_tests::testkit::error::LabError;
use longshore_tests::testkit::object_servers::{Kind, ObjectServer};
use longshore_tests::testkit::{Backend, Loopback, Origin, Site};
use rustix::process::Signal;

use super::{content, denied, limit, number, push, show};
use crate::client::{Client, header};
use crate::crash::gate::{Closed, Gate, Last, Order};
use crate::harness::on;
use crate::regions::{ready, regions, replicated};

/// More writes than a push under a quota has.
const WRITES_MAX: usize = 60;
/// containerd waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const BLOB: usize = 1000;

/// The store goes away at each write of a push; the push is made again when it is back.
async fn cut_at_every_write(last: Last) {
    on(Backend::Moto, async |stage| {
        let server = stage.store.server().expect("a store on the wire");
        let gate = Gate::start(server.endpoint()).await;
        let mut settings = limit(1_000_000);
        settings.set("quota.lease_ms", 2000).set("storage.endpoint", gate.url());
        let (place, store) = (&stage.loopback, &stage.store);
        let origin = Origin::start_with(place, store, "registry", &settings).await?;
        let client = Client::new(&origin)?;
        let mut used = 0;
        for at in 0..WRITES_MAX {
            let blob = content(BLOB + at, at);
            gate.arm(Order { at, last, closed: Closed::Breaks });
            let cut = push(&client, "team/app", &blob).await?;
            let was_closed = gate.open();
            let before = number(&show(stage, &settings, "").await?, "used_bytes");
            assert!(before >= used, "a charge is lost: {before} of {used}");
            used += blob.len() as u64;
            if was_closed && cut.status() != 201 {
                assert_eq!(cut.status(), 503, "cut at write {at}");
                header(&cut, "retry-after")?;
                let again = push(&client, "team/app", &blob).await?;
                assert_eq!(again.status(), 201, "after the cut at write {at}");
            }
            assert_eq!(number(&show(stage, &settings, "").await?, "used_bytes"), used);
            if !was_closed {
                assert!(at >= 4, "a push has {at} writes");
                // Nothing is held by what broke off: the project can be filled to the byte.
                let rest = usize::try_from(1_000_000 - used).unwrap_or_default();
                let full = push(&client, "team/app", &content(rest, WRITES_MAX)).await?;
                assert_eq!(full.status(), 201, "{used} are used");
                denied(push(&client, "team/app", b"x").await?, 1_000_000).await?;
                return Ok(());
            }
        }
        panic!("a push has more than {WRITES_MAX} writes");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_before_any_write_of_a_push_costs_nobody_a_charge() {
    cut_at_every_write(Last::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_after_any_write_of_a_push_costs_nobody_a_charge() {
    cut_at_every_write(Last::Done).await;
}

/// Nothing is refused for a quota that cannot be looked at.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_stands_still_a_push_is_told_to_come_back() {
    on(Backend::Moto, async |stage| {
        let settings = limit(10_000);
        let (place, store) = (&stage.loopback, &stage.store);
        let origin = Origin::start_with(place, store, "registry", &settings).await?;
        let client = Client::new(&origin)?;
        assert_eq!(push(&client, "team/app", &content(9000, 0)).await?.status(), 201);
        let server = stage.store.server().expect("a store on the wire");
        server.process().signal(Signal::STOP)?;
        // One that fits, and one of which nobody can say.
        for bytes in [500, 5000] {
            let blob = content(bytes, 1);
            let told = tokio::time::timeout(PATIENCE, push(&client, "team/app", &blob));
            let told = told.await.map_err(|_| LabError::Unexpected("no answer".to_owned()))??;
            assert_eq!(told.status(), 503, "{bytes}");
            header(&told, "retry-after")?;
        }
        server.process().signal(Signal::CONT)?;
        // Charges that were on their way may have come: they are the same ones.
        assert_eq!(push(&client, "team/app", &content(500, 1)).await?.status(), 201);
        let used = number(&show(stage, &settings, "").await?, "used_bytes");
        assert_eq!(used, 9500);
        denied(push(&client, "team/app", &content(5000, 1)).await?, 10_000).await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_failed_over_a_quota_counts_and_says_that_it_is_approximate() {
    on(Backend::Moto, async |stage| {
        let eu = stage.store.server().expect("a store on the wire");
        let elsewhere = Loopback::start()?;
        let us = ObjectServer::start(&Site::Loopback(elsewhere.clone()), Kind::Moto).await?;
        let mut settings = limit(10_000);
        settings.set("regions.timeout_ms", 2000);
        let (place, store, file) = (&stage.loopback, &stage.store, regions(eu, &us));
        let origin = Origin::start_from(place, store, "registry", &settings, &file).await?;
        let client = Client::new(&origin)?;
        assert_eq!(push(&client, "team/app", &content(4000, 0)).await?.status(), 201);
        let approximate = "longshore_registry_quota_approximate_total";
        assert_eq!(origin.metrics().await?.sum(approximate), 0);

        replicated(&origin).await?;

        eu.process().signal(Signal::STOP)?;
        ready(&origin, "a failover", |text| {
            text.contains("region eu failed over to us") && text.contains("quota is approximate")
        })
        .await?;
        assert_eq!(push(&client, "team/app", &content(3000, 1)).await?.status(), 201);
        assert_eq!(origin.metrics().await?.sum(approximate), 1);
        // What is counted there is refused there.
        let (used, _) = denied(push(&client, "team/app", &content(3001, 2)).await?, 10_000).await?;
        assert_eq!(used, 7000);

        eu.process().signal(Signal::CONT)?;
        ready(&origin, "the return", |text| text == "ok\n").await?;
        assert_eq!(push(&client, "team/app", &content(3000, 3)).await?.status(), 201);
        denied(push(&client, "team/app", b"x").await?, 10_000).await?;
        origin.stop().await?;
        let used = number(&show(stage, &settings, &file).await?, "used_bytes");
        assert_eq!(used, 10_000);
        Ok(())
    })
    .await;
}
