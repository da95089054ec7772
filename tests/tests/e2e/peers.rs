//! Peers that lie, hang or vanish, and a fleet without its origin.

use longshore_tests::testkit::{AgentOptions, Rate};

use crate::harness::{MB, in_lab, received};

/// Hooks of the build for tests: what an agent does to the pieces it uploads.
const CORRUPT_UPLOADS: &str = "LONGSHORE_TEST_CORRUPT_UPLOADS";
const STALL_UPLOADS: &str = "LONGSHORE_TEST_STALL_UPLOADS";
const LINK: Rate = Rate::mbit(80);

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_from_a_peer_are_refused_counted_and_never_kept() {
    in_lab(async |stage| {
        let image = stage.image(7, &[6 * MB, 4 * MB]).await?;
        let origin = stage.origin(LINK, image).await?;
        let options = AgentOptions::joined(&origin.registry).hooked().hook(CORRUPT_UPLOADS);
        let liar = origin.node_with(stage, "node1", LINK, &options).await?;
        liar.pull(&origin).await?;

        let victim = origin.node(stage, "node2", LINK).await?;
        victim.pull_and_run(&origin).await?;
        let metrics = victim.agent.metrics().await?;
        assert!(metrics.sum("longshore_swarm_bad_pieces_total") > 0, "the liar was never asked");
        assert_eq!(metrics.sum("longshore_swarm_received_bytes_total"), 0, "wrong bytes counted");

        // A third node with the liar off the wire gets what the second keeps.
        liar.node.host.unplug()?;
        let third = origin.node(stage, "node3", LINK).await?;
        third.pull_and_run(&origin).await?;
        let metrics = third.agent.metrics().await?;
        assert_eq!(
            metrics.sum("longshore_swarm_bad_pieces_total"),
            0,
            "the victim kept wrong bytes"
        );
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_does_not_stop_the_pull() {
    in_lab(async |stage| {
        let image = stage.image(8, &[6 * MB, 4 * MB]).await?;
        let origin = stage.origin(LINK, image).await?;
        let options = AgentOptions::joined(&origin.registry).hooked().hook(STALL_UPLOADS);
        let sluggard = origin.node_with(stage, "node1", LINK, &options).await?;
        sluggard.pull(&origin).await?;

        let victim = origin.node(stage, "node2", LINK).await?;
        victim.pull_and_run(&origin).await?;
        let metrics = victim.agent.metrics().await?;
        assert!(metrics.sum("longshore_swarm_stalled_requests_total") > 0, "it was never asked");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_vanishes_in_mid_pull_does_not_stop_it() {
    in_lab(async |stage| {
        let slow = Rate::mbit(40);
        let image = stage.image(9, &[8 * MB, 8 * MB]).await?;
        let origin = stage.origin(slow, image).await?;
        let first = origin.node(stage, "node1", slow).await?;
        first.pull(&origin).await?;

        let second = origin.node(stage, "node2", slow).await?;
        let before = second.node.host.counter().await?.to_host;
        let vanish = async {
            received(&second.node.host, before, 4 * MB).await?;
            first.node.host.unplug()
        };
        let (pulled, vanished) = tokio::join!(second.pull_and_run(&origin), vanish);
        vanished?;
        pulled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_registry_dead_a_joined_node_gets_the_image_from_its_peer() {
    in_lab(async |stage| {
        let image = stage.image(10, &[5 * MB, 3 * MB]).await?;
        let origin = stage.origin(LINK, image).await?;
        let first = origin.node(stage, "node1", LINK).await?;
        let second = origin.node(stage, "node2", LINK).await?;
        first.pull(&origin).await?;
        second.metric_at_least("longshore_swarm_peers", 1).await?;
        origin.kill_registry().await?;

        second.pull_and_run(&origin).await?;
        let metrics = second.agent.metrics().await?;
        let from_peers = metrics.sum("longshore_swarm_received_bytes_total");
        let layers: u64 = origin.image.layers.iter().map(|layer| layer.size).sum();
        assert!(from_peers >= layers, "{from_peers} of {layers} bytes came from the peer");
        Ok(())
    })
    .await;
}
