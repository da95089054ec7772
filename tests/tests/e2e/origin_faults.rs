//! An origin that misbehaves towards the agent: the pull must not fail nor hang.
//!
//! Agent and containerd both reach the registry through a proxy, which hurts the agent alone.

use std::time::Duration;

use longshore_tests::testkit::proxy::{Fault, HttpProxy, Rule};
use longshore_tests::testkit::registry::REGISTRY_PORT;
use longshore_tests::testkit::{Agent, AgentOptions, Node, Rate};
use tokio::time::Instant;

use crate::harness::{MB, Member, Origin, in_lab, run_check};

/// Below it a pull counts as not hanging: a first byte's bound and a stall's for every request of
/// a small image, with room for a slow machine.
const BOUND: Duration = Duration::from_secs(90);
const LINK: Rate = Rate::mbit(100);

/// Pulls with a fault in the agent's way to these paths; the pull must succeed in time.
async fn pulls_in_spite_of(path: &str, fault: Fault) {
    in_lab(async |stage| {
        let origin = stage.origin(LINK, stage.image(12, &[4 * MB, 2 * MB]).await?).await?;
        let host = stage.lab.host("proxy", LINK)?;
        let upstream = (origin.registry.host().address(), REGISTRY_PORT).into();
        let proxy = HttpProxy::start(&host, REGISTRY_PORT, upstream).await?;
        let options = AgentOptions::at(&proxy.url(), origin.registry.signing_keys())
            .with("mirror.first_byte_timeout_ms", 3000)
            .with("mirror.stall_timeout_ms", 2000);
        let (parts, authority) = (stage.parts().await?, proxy.authority());
        let node = Node::start(&stage.lab, "node1", LINK, &parts, &authority).await?;
        let agent = Agent::start(&node.host, &options).await?;
        let member = Member { node, agent };
        let origin = Origin { reference: format!("{authority}/team/app:1"), ..origin };

        proxy.set(vec![Rule::on(path, fault).sparing("containerd")]);
        let clock = Instant::now();
        member.pull(&origin).await?;
        let took = clock.elapsed();
        assert!(took < BOUND, "the pull took {took:?}");
        run_check(&member.node, &origin).await?;
        assert!(proxy.hits() > 0, "the fault never happened: {:?}", proxy.requests());
        assert!(member.agent.metrics().await.is_ok(), "the agent did not survive it");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_whose_bytes_are_wrong() {
    pulls_in_spite_of("/blobs/", Fault::CorruptAt(1000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stalls_within_a_blob() {
    pulls_in_spite_of("/blobs/", Fault::StallAfter(100_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_hangs_up_within_a_blob() {
    pulls_in_spite_of("/blobs/", Fault::CutAfter(100_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_answers_every_request_with_500() {
    pulls_in_spite_of("/", Fault::Status(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_never_answers() {
    pulls_in_spite_of("/", Fault::Delay(Duration::from_secs(3600))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_whose_tracker_is_gone() {
    pulls_in_spite_of("longshore.origin.v1.Tracker", Fault::Status(503)).await;
}
