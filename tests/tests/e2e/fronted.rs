//! Images of another registry, pulled through an agent from an origin that fronts it.

use longshore_tests::image::push;
use longshore_tests::testkit::{
    Agent, AgentOptions, DockerRegistry, Node, Rate, Registry, Result, Settings,
};

use crate::harness::{MB, Origin, Stage, in_lab, pull, run_check};

/// What containerd calls the other registry; nobody has that name.
const NAME: &str = "fronted.example";

/// docker-registry with an image, and an origin in front of it.
async fn fronted(stage: &Stage) -> Result<(DockerRegistry, Origin)> {
    let image = stage.image(21, &[3 * MB, 2 * MB, MB]).await?;
    let host = stage.lab.host("upstream", Rate::UNSHAPED)?;
    let upstream = DockerRegistry::start(&host, &stage.programs).await?;
    push::push(&host, &image, &format!("{}/team/app:1", upstream.authority())).await?;
    let file = format!(
        "[[upstream.registry]]\nprefix = \"front\"\nns = [\"{NAME}\"]\nurl = \"http://{}\"\n",
        upstream.authority()
    );
    let host = stage.lab.host("registry", Rate::UNSHAPED)?;
    let registry = Registry::start_from(&host, &Settings::default(), &file).await?;
    Ok((upstream, Origin { registry, image, reference: format!("{NAME}/team/app:1") }))
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_an_image_of_a_fronted_registry_through_the_agent() {
    in_lab(async |stage| {
        let (upstream, origin) = fronted(stage).await?;
        let (parts, authority) = (stage.parts().await?, origin.registry.authority());
        let options = AgentOptions::joined(&origin.registry)
            .with("containerd.registries", format!("{authority},{NAME}=front"));
        let node = Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &authority).await?;
        let agent = Agent::start(&node.host, &options).await?;
        pull(&node, &origin).await?;
        run_check(&node, &origin).await?;

        let metrics = agent.metrics().await?;
        let from_origin = metrics.sum("longshore_origin_received_bytes_total");
        assert!(from_origin >= origin.image.bytes(), "the agent fetched {from_origin} bytes");
        assert!(metrics.sum_with("longshore_mirror_requests_total", "status", "200") >= 5);
        let reads = "longshore_registry_upstream_blob_reads_total";
        let read = origin.registry.metrics().await?.sum(reads);
        assert_eq!(read, origin.image.layers.len() as u64 + 1);

        // A second node needs the other registry no more: its image is the origin's by now.
        upstream.process().kill().await?;
        let node = Node::start(&stage.lab, "node2", Rate::UNSHAPED, &parts, &authority).await?;
        let _agent = Agent::start(&node.host, &options).await?;
        pull(&node, &origin).await?;
        assert_eq!(origin.registry.metrics().await?.sum(reads), read);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_agents_mirror_containerd_finds_the_image_at_the_origin_itself() {
    in_lab(async |stage| {
        let (_upstream, origin) = fronted(stage).await?;
        let (parts, authority) = (stage.parts().await?, origin.registry.authority());
        // The lab's own hosts.toml leads every name to the origin, with `ns` as containerd adds it.
        let node = Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &authority).await?;
        pull(&node, &origin).await?;
        run_check(&node, &origin).await
    })
    .await;
}
