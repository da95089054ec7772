//! A pull with everything healthy, on each containerd.

use std::io::Write;

use longshore_tests::testkit::{
    Agent, AgentOptions, ContainerdVersion, LabError, Node, NodeParts, Rate,
};

use crate::harness::{MB, Member, in_lab, pull, run_check};

async fn pulls_and_runs_on(version: ContainerdVersion) {
    in_lab(async |stage| {
        let parts = match NodeParts::get(&stage.programs, version).await {
            Err(LabError::Unavailable { what, why }) => {
                // Past the harness's capture: a person must see what was not tested.
                let _ = writeln!(std::io::stderr(), "not tested (1): {what}: {why}");
                return Ok(());
            }
            other => other?,
        };
        let _ = writeln!(std::io::stderr(), "tested: containerd {}", parts.version());
        let image = stage.image(2, &[3 * MB, 2 * MB, MB]).await?;
        let origin = stage.origin(Rate::UNSHAPED, image).await?;
        let authority = origin.registry.authority();
        let node = Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &authority).await?;
        let agent = Agent::start(&node.host, &AgentOptions::joined(&origin.registry)).await?;

        let before = origin.sent().await?;
        pull(&node, &origin).await?;
        run_check(&node, &origin).await?;

        let sent = origin.sent().await? - before;
        assert!(sent < origin.image.bytes() * 12 / 10, "the origin sent {sent} bytes for one pull");
        let metrics = agent.metrics().await?;
        let from_origin = metrics.sum("longshore_origin_received_bytes_total");
        assert!(from_origin >= origin.image.bytes(), "the agent fetched {from_origin} bytes");
        assert!(metrics.sum_with("longshore_mirror_requests_total", "status", "200") >= 5);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_1_6_pulls_through_the_agent() {
    pulls_and_runs_on(ContainerdVersion::V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_1_7_pulls_through_the_agent() {
    pulls_and_runs_on(ContainerdVersion::V1_7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_2_1_pulls_through_the_agent() {
    pulls_and_runs_on(ContainerdVersion::V2_1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_pull_at_once_share_one_origin_copy() {
    in_lab(async |stage| {
        let rate = Rate::mbit(60);
        let origin = stage.origin(rate, stage.image(3, &[8 * MB, 8 * MB]).await?).await?;
        let mut members: Vec<Member> = Vec::new();
        for role in ["node1", "node2", "node3"] {
            members.push(origin.node(stage, role, rate).await?);
        }
        let before = origin.sent().await?;
        let pulls = members.iter().map(|member| member.pull_and_run(&origin));
        futures::future::try_join_all(pulls).await?;

        let sent = origin.sent().await? - before;
        assert!(
            sent < origin.image.bytes() * 13 / 10,
            "the origin sent {sent} bytes to three nodes"
        );
        for member in &members {
            let metrics = member.agent.metrics().await?;
            let bytes = metrics.sum("longshore_swarm_received_bytes_total");
            assert!(bytes > 0, "{} got nothing from peers", member.node.host.role());
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_where_each_layers_bytes_came_from() {
    in_lab(async |stage| {
        let image = stage.image(2, &[3 * MB, 2 * MB, MB]).await?;
        let origin = stage.origin(Rate::UNSHAPED, image).await?;
        let member = origin.node(stage, "node1", Rate::UNSHAPED).await?;
        member.pull(&origin).await?;

        let explained = member.agent.cli(&["explain", &origin.reference, "--json"]).await?;
        assert_eq!(explained["digest"], origin.image.digest.to_string());
        let layers = explained["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        for wanted in &origin.image.layers {
            let digest = wanted.digest.to_string();
            let layer = layers.iter().find(|layer| layer["digest"] == digest);
            let layer = layer.unwrap_or_else(|| panic!("{digest} is missing in {explained}"));
            let bytes = ["origin_bytes", "peer_bytes", "local_bytes"]
                .map(|source| layer[source].as_u64().unwrap_or_default());
            assert!(bytes.iter().sum::<u64>() >= wanted.size, "{layer}");
            assert_eq!(layer["verified_pieces"], layer["pieces"], "{layer}");
        }
        let status = member.agent.cli(&["status", "--json"]).await?;
        assert!(status.is_object(), "{status}");
        Ok(())
    })
    .await;
}
