//! What every end-to-end test stands on: a slot, a lab, a deadline, and logs when it fails.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use longshore_tests::image::{Image, debian, push, synthetic};
use longshore_tests::testkit::lab::require_root;
use longshore_tests::testkit::metrics::Metrics;
use longshore_tests::testkit::slots::Slot;
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{
    Agent, AgentOptions, Cache, ContainerdVersion, Host, Lab, LabError, Node, NodeParts, Programs,
    Rate, Registry, Result,
};

/// No test may take longer; most take seconds.
const TEST_DEADLINE: Duration = Duration::from_secs(300);
/// For what should happen at once on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A megabyte, as link rates and image sizes count it.
pub(crate) const MB: u64 = 1_000_000;
/// Where tests push their image.
const REPOSITORY: &str = "team/app";

/// A lab for one test and the programs it may use.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) programs: Programs,
}

impl Stage {
    /// containerd 1.6, which the machines under test run.
    pub(crate) async fn parts(&self) -> Result<NodeParts> {
        NodeParts::get(&self.programs, ContainerdVersion::V1_6).await
    }

    /// The real image of the demo.
    pub(crate) async fn debian_image(&self) -> Result<Image> {
        let programs = self.programs.clone();
        blocking(move || debian::image(&programs)).await
    }

    /// A small image with layers of these sizes.
    pub(crate) async fn image(&self, seed: u64, layers: &'static [u64]) -> Result<Image> {
        let programs = self.programs.clone();
        blocking(move || synthetic::image(&programs, seed, layers)).await
    }

    /// A registry on a host of its own that has this image.
    pub(crate) async fn origin(&self, rate: Rate, image: Image) -> Result<Origin> {
        let registry = Registry::start(&self.lab.host("registry", rate)?).await?;
        let reference = format!("{}/{REPOSITORY}:1", registry.authority());
        push(registry.host(), &image, &reference).await?;
        Ok(Origin { registry, image, reference })
    }
}

/// A registry with one image.
pub(crate) struct Origin {
    pub(crate) registry: Registry,
    pub(crate) image: Image,
    /// Its name for PullImage.
    pub(crate) reference: String,
}

impl Origin {
    /// A node with an agent joined to this registry.
    pub(crate) async fn node(&self, stage: &Stage, role: &str, rate: Rate) -> Result<Member> {
        self.node_with(stage, role, rate, &AgentOptions::joined(&self.registry)).await
    }

    /// As [`Origin::node`], with other options.
    pub(crate) async fn node_with(
        &self,
        stage: &Stage,
        role: &str,
        rate: Rate,
        options: &AgentOptions,
    ) -> Result<Member> {
        let parts = stage.parts().await?;
        let authority = self.registry.authority();
        let node = Node::start(&stage.lab, role, rate, &parts, &authority).await?;
        let agent = Agent::start(&node.host, options).await?;
        Ok(Member { node, agent })
    }

    /// SIGKILL; its link stays, so that connections to it are refused.
    pub(crate) async fn kill_registry(&self) -> Result<()> {
        self.registry.process().kill().await.map(|_| ())
    }

    /// What the registry's link has sent, headers included.
    pub(crate) async fn sent(&self) -> Result<u64> {
        Ok(self.registry.host().counter().await?.from_host)
    }

    /// The path of a layer's blob, with the namespace that containerd sends.
    pub(crate) fn layer_path(&self, layer: usize) -> String {
        let digest = &self.image.layers[layer].digest;
        format!("/v2/{REPOSITORY}/blobs/{digest}?ns={}", self.registry.authority())
    }

    /// The path of the image's manifest.
    pub(crate) fn manifest_path(&self) -> String {
        let digest = &self.image.digest;
        format!("/v2/{REPOSITORY}/manifests/{digest}?ns={}", self.registry.authority())
    }
}

/// A node with its agent.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) agent: Agent,
}

impl Member {
    /// Pulls the origin's image and checks its digests.
    pub(crate) async fn pull(&self, origin: &Origin) -> Result<()> {
        pull(&self.node, origin).await
    }

    /// Pulls, and runs a container that checks every layer.
    pub(crate) async fn pull_and_run(&self, origin: &Origin) -> Result<()> {
        self.pull(origin).await?;
        run_check(&self.node, origin).await
    }

    /// Waits until one of the agent's metrics, summed over labels, is at least `least`.
    pub(crate) async fn metric_at_least(&self, name: &str, least: u64) -> Result<Metrics> {
        until(&format!("{name} of at least {least}"), SOON, async || {
            let metrics = self.agent.metrics().await?;
            let value = metrics.sum(name);
            Ok(if value >= least { Seen::Yes(metrics) } else { Seen::NotYet(value.to_string()) })
        })
        .await
    }
}

/// Pulls the origin's image and checks its digests.
pub(crate) async fn pull(node: &Node, origin: &Origin) -> Result<()> {
    let pulled = node.containerd.cri().pull(&origin.reference).await?;
    assert_eq!(pulled.id, origin.image.config.digest.to_string());
    assert_eq!(pulled.manifests, [origin.image.digest.to_string()]);
    Ok(())
}

/// Runs a container that checks every layer.
pub(crate) async fn run_check(node: &Node, origin: &Origin) -> Result<()> {
    let check = &origin.image.check;
    let command: Vec<&str> = check.command.iter().map(String::as_str).collect();
    let finished = node.containerd.cri().run(&origin.reference, &command).await?;
    assert_eq!((finished.code, finished.output.as_str()), (0, check.prints.as_str()));
    Ok(())
}

/// Waits until a host has received so many bytes since `before`.
pub(crate) async fn received(host: &Host, before: u64, bytes: u64) -> Result<()> {
    until(&format!("{bytes} bytes received by {}", host.role()), SOON, async || {
        let now = host.counter().await?.to_host - before;
        Ok(if now >= bytes { Seen::Yes(()) } else { Seen::NotYet(now.to_string()) })
    })
    .await
}

/// Runs a test in a lab of its own; panics with the cause and the logs of the lab when it fails.
#[expect(clippy::print_stderr, reason = "the logs belong beside the test's failure")]
pub(crate) async fn in_lab(test: impl AsyncFnOnce(&Stage) -> Result<()>) {
    require_root().unwrap_or_else(|failed| panic!("{failed}"));
    let programs = Cache::open().map(Programs::new).unwrap_or_else(|failed| panic!("{failed}"));
    let _slot = Slot::one(programs.cache()).await.unwrap_or_else(|failed| panic!("{failed}"));
    let lab = Lab::start().unwrap_or_else(|failed| panic!("{failed}"));
    let stage = Stage { lab, programs };
    let run = AssertUnwindSafe(Box::pin(test(&stage))).catch_unwind();
    let outcome = tokio::time::timeout(TEST_DEADLINE, run).await;
    if !matches!(outcome, Ok(Ok(Ok(())))) {
        eprintln!("{}", stage.lab.tails());
    }
    match outcome {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(failed))) => panic!("{failed}"),
        Ok(Err(panicked)) => resume_unwind(panicked),
        Err(_) => panic!("the test did not end within {TEST_DEADLINE:?}"),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|failed| LabError::Unexpected(failed.to_string()))?
}
