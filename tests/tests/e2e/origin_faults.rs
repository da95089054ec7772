//! An origin that misbehaves towards the agent: the pull must not fail nor hang.
//!
//! The agent reaches its origin through a proxy; containerd's own way to the registry stays good.

use std::time::Duration;

use longshore_tests::testkit::proxy::{Fault, HttpProxy, Rule};
use longshore_tests::testkit::{AgentOptions, Rate};
use tokio::time::Instant;

use crate::harness::{MB, Member, Origin, Stage, in_lab, run_check};

/// Below it a pull counts as not hanging: a first byte's bound and a stall's for every request of
/// a small image, with room for a slow machine.
const BOUND: Duration = Duration::from_secs(90);
const LINK: Rate = Rate::mbit(100);

/// A node whose agent sees the registry through a proxy.
async fn behind_a_proxy(
    stage: &Stage,
    origin: &Origin,
) -> longshore_tests::testkit::Result<(HttpProxy, Member)> {
    let host = stage.lab.host("proxy", LINK)?;
    let upstream = (origin.registry.host().address(), 5000).into();
    let proxy = HttpProxy::start(&host, 5000, upstream).await?;
    let options = AgentOptions::at(&proxy.url(), origin.registry.signing_keys())
        .with("containerd.registries", origin.registry.authority())
        .with("mirror.first_byte_timeout_ms", 3000)
        .with("mirror.stall_timeout_ms", 2000);
    let member = origin.node_with(stage, "node1", LINK, &options).await?;
    Ok((proxy, member))
}

/// Pulls with these faults in the agent's way; the pull must succeed in time.
async fn pulls_in_spite_of(rules: Vec<Rule>) {
    in_lab(async |stage| {
        let origin = stage.origin(LINK, stage.image(12, &[4 * MB, 2 * MB]).await?).await?;
        let (proxy, member) = behind_a_proxy(stage, &origin).await?;
        proxy.set(rules.clone());
        let clock = Instant::now();
        member.pull(&origin).await?;
        let took = clock.elapsed();
        assert!(took < BOUND, "the pull took {took:?}");
        run_check(&member.node, &origin).await?;
        assert!(member.agent.metrics().await.is_ok(), "the agent did not survive it");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_whose_bytes_are_wrong() {
    pulls_in_spite_of(vec![Rule::on("/blobs/", Fault::CorruptAt(1000))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stalls_within_a_blob() {
    pulls_in_spite_of(vec![Rule::on("/blobs/", Fault::StallAfter(100_000))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_hangs_up_within_a_blob() {
    pulls_in_spite_of(vec![Rule::on("/blobs/", Fault::CutAfter(100_000))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_answers_every_request_with_500() {
    pulls_in_spite_of(vec![Rule::on("/", Fault::Status(500))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_never_answers() {
    pulls_in_spite_of(vec![Rule::on("/", Fault::Delay(Duration::from_secs(3600)))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_whose_tracker_is_gone() {
    pulls_in_spite_of(vec![Rule::on("longshore.origin.v1.Tracker", Fault::Status(503))]).await;
}
