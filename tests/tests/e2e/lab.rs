//! The lab itself: links, containerds, sweeping, with Debian's docker-registry as the origin.

use longshore_tests::image::push;
use std::process::{Child, Command};

use longshore_tests::testkit::command::Run;
use longshore_tests::testkit::name::start_time;
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{DockerRegistry, Host, Lab, Node, Rate, sweep};
use tokio::time::Instant;

use crate::harness::{MB, SOON, in_lab};

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

#[tokio::test(flavor = "multi_thread")]
async fn two_labs_use_the_same_addresses_and_do_not_meet() {
    in_lab(async |stage| {
        let other = Lab::start()?;
        let ours = stage.lab.host("registry", Rate::UNSHAPED)?;
        let theirs = other.host("registry", Rate::UNSHAPED)?;
        assert_eq!(ours.address(), theirs.address());
        let _registry = DockerRegistry::start(&ours, &stage.programs).await?;
        let url = format!("http://{}:5000/v2/", ours.address());
        let (our_client, their_client) =
            (stage.lab.host("client", Rate::UNSHAPED)?, other.host("client", Rate::UNSHAPED)?);
        assert_eq!(our_client.get(&url).await?.0, 200);
        assert!(their_client.get(&url).await.is_err(), "a lab reaches into another one");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_lab_left_is_swept_and_living_labs_are_not() {
    in_lab(async |stage| {
        let mut left = OtherLab::make();
        tokio::task::spawn_blocking(sweep::sweep_dead).await.expect("the sweep");
        assert!(left.is_there(), "the lab of a living owner was swept");
        left.owner.kill().expect("our child");
        left.owner.wait().expect("our child");
        tokio::task::spawn_blocking(sweep::sweep_dead).await.expect("the sweep");
        // Another test's lab may have begun the same sweep and be at its end.
        until("the sweep's end", SOON, async || {
            let is_there = left.is_there();
            Ok(if is_there { Seen::NotYet("a rest".to_owned()) } else { Seen::Yes(()) })
        })
        .await?;
        let host = stage.lab.host("client", Rate::UNSHAPED)?;
        assert!(host.command("true").run_async().await.is_ok(), "a living lab was swept");
        Ok(())
    })
    .await;
}

/// A lab of another process, with all that a lab has.
struct OtherLab {
    name: String,
    owner: Child,
    process: Child,
}

impl OtherLab {
    fn make() -> Self {
        let owner = Command::new("sleep").arg("1000").spawn().expect("sleep");
        let started = start_time(owner.id()).expect("it runs");
        let name = format!("lsl-{}-{started}-0", owner.id());
        let disk = format!("/var/tmp/longshore-lab/{name}/disk");
        std::fs::create_dir_all(&disk).expect("a directory");
        Run::new("mount").args(["-t", "tmpfs", "tmpfs", &disk]).run().expect("a mount");
        Run::new("ip").args(["netns", "add", &format!("{name}-hub")]).run().expect("a namespace");
        let namespace = format!("--net=/run/netns/{name}-hub");
        let process = Command::new("nsenter").args([&namespace, "sleep", "1000"]).spawn();
        if std::path::Path::new("/sys/fs/cgroup/pids").is_dir() {
            std::fs::create_dir_all(format!("/sys/fs/cgroup/pids/{name}/pod")).expect("a cgroup");
        }
        Self { name, owner, process: process.expect("nsenter") }
    }

    fn is_there(&self) -> bool {
        let paths = [
            format!("/run/netns/{}-hub", self.name),
            format!("/var/tmp/longshore-lab/{}", self.name),
            format!("/sys/fs/cgroup/pids/{}", self.name),
        ];
        start_time(self.process.id()).is_some()
            || paths.iter().any(|path| std::path::Path::new(path).exists())
    }
}
