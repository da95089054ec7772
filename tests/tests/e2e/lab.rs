//! The lab itself: links, containerds, sweeping, with Debian's docker-registry as the origin.

use longshore_tests::image::push;
use longshore_tests::testkit::{DockerRegistry, Host, Node, Rate};
use tokio::time::Instant;

use crate::harness::{MB, in_lab};

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_without_an_agent_takes_what_the_shaped_link_takes() {
    in_lab(async |stage| {
        let image = stage.image(1, &[6 * MB, 4 * MB]).await?;
        let host = stage.lab.host("registry", Rate::mbit(40))?;
        let registry = DockerRegistry::start(&host, &stage.programs).await?;
        let name = format!("{}/lab/random:1", registry.authority());
        push(&host, &image, &name).await?;
        assert!(host.counter().await?.from_host < MB, "the push crossed the registry's link");

        let parts = stage.parts().await?;
        let node =
            Node::start(&stage.lab, "node1", Rate::mbit(40), &parts, &registry.authority()).await?;
        let (before, clock) =
            (Host::counters(&[host.clone(), node.host.clone()]).await?, Instant::now());
        let pulled = node.containerd.cri().pull(&name).await?;
        let seconds = clock.elapsed().as_secs_f64();
        let after = Host::counters(&[host, node.host.clone()]).await?;

        assert_eq!(pulled.id, image.config.digest.to_string());
        assert_eq!(pulled.manifests, [image.digest.to_string()]);
        let sent = after[0].since(before[0]).from_host;
        let received = after[1].since(before[1]).to_host;
        for bytes in [sent, received] {
            let ratio = bytes as f64 / image.bytes() as f64;
            assert!((1.0..1.1).contains(&ratio), "{bytes} bytes for {}", image.bytes());
        }
        let wire = image.bytes() as f64 * 8.0 / 40e6;
        assert!(seconds > 0.9 * wire, "{seconds} s are less than the wire's {wire} s");

        let command: Vec<&str> = image.check.command.iter().map(String::as_str).collect();
        let finished = node.containerd.cri().run(&name, &command).await?;
        assert_eq!((finished.code, finished.output), (0, image.check.prints.clone()));
        node.containerd.destroy().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_image_is_large_and_its_programs_run() {
    in_lab(async |stage| {
        let image = stage.debian_image().await?;
        assert!(image.layers.len() >= 10, "{} layers", image.layers.len());
        assert!(image.bytes() >= 200 * MB, "{} bytes", image.bytes());
        let host = stage.lab.host("registry", Rate::UNSHAPED)?;
        let registry = DockerRegistry::start(&host, &stage.programs).await?;
        let name = format!("{}/lab/debian:1", registry.authority());
        push(&host, &image, &name).await?;
        let parts = stage.parts().await?;
        let node =
            Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &registry.authority()).await?;
        node.containerd.cri().pull(&name).await?;
        let command: Vec<&str> = image.check.command.iter().map(String::as_str).collect();
        let finished = node.containerd.cri().run(&name, &command).await?;
        assert_eq!((finished.code, finished.output), (0, image.check.prints.clone()));
        node.containerd.destroy().await
    })
    .await;
}
