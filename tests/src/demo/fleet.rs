//! The machines of the demo: one registry, some nodes, one lab.

use futures::future::{join_all, try_join_all};

use super::options::{ImageChoice, Options};
use crate::image::{Image, debian, push, synthetic};
use crate::testkit::{
    Agent, AgentOptions, Host, Lab, LabError, Node, NodeParts, Programs, Registry, Result,
};

/// What the image is called in the registry.
const NAME: &str = "demo/image:1";

/// A running fleet whose containerds hold nothing of the image.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) registry: Registry,
    pub(super) nodes: Vec<Node>,
    parts: NodeParts,
    // Removed last.
    lab: Lab,
}

impl Fleet {
    /// Starts everything but the agents, and pushes the image inside the registry's namespace.
    pub(super) async fn start(
        programs: &Programs,
        options: &Options,
        image: &Image,
    ) -> Result<Self> {
        let parts = NodeParts::get(programs, options.containerd).await?;
        let lab = Lab::start()?;
        let host = lab.host("registry", options.registry_rate())?;
        let registry = Registry::start(&host).await?;
        push(&host, image, &name(&registry)).await?;
        let authority = registry.authority();
        let mut nodes = Vec::new();
        for number in 1..=options.nodes {
            let role = format!("node{number}");
            nodes.push(Node::start(&lab, &role, options.node_rate(), &parts, &authority).await?);
        }
        Ok(Self { registry, nodes, parts, lab })
    }

    /// The version that every node runs.
    pub(super) fn containerd_version(&self) -> String {
        format!("containerd {}", self.parts.version())
    }

    /// The image's name for PullImage.
    pub(super) fn image_name(&self) -> String {
        name(&self.registry)
    }

    /// The nodes' hosts and, last, the registry's.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let nodes = self.nodes.iter().map(|node| node.host.clone());
        nodes.chain([self.registry.host().clone()]).collect()
    }

    /// Starts an agent on every node; all are ready when it returns.
    pub(super) async fn start_agents(&self) -> Result<Vec<Agent>> {
        let options = AgentOptions::joined(&self.registry);
        try_join_all(self.nodes.iter().map(|node| Agent::start(&node.host, &options))).await
    }

    /// Runs the image's check on every node; each outcome is an error's text or nothing.
    pub(super) async fn run_containers(&self, image: &Image) -> Vec<Result<(), String>> {
        let name = self.image_name();
        let command: Vec<&str> = image.check.command.iter().map(String::as_str).collect();
        let runs = self.nodes.iter().map(async |node| {
            let finished = node.containerd.cri().run(&name, &command).await;
            let finished = finished.map_err(|failed| failed.to_string())?;
            if finished.code == 0 && finished.output == image.check.prints {
                return Ok(());
            }
            Err(format!("exit {}, printed {:?}", finished.code, finished.output))
        });
        join_all(runs).await
    }

    /// The same machines and links with new, empty containerds.
    pub(super) async fn emptied(self) -> Result<Self> {
        let authority = self.registry.authority();
        let mut nodes = Vec::new();
        for node in self.nodes {
            let host = node.host.clone();
            node.containerd.destroy().await?;
            nodes.push(Node::on(host, &self.parts, &authority).await?);
        }
        Ok(Self { nodes, ..self })
    }

    /// Ends the programs in order; the lab removes the rest.
    pub(super) async fn destroy(self) -> Result<()> {
        for node in self.nodes {
            node.containerd.destroy().await?;
        }
        self.registry.stop().await?;
        drop(self.lab);
        Ok(())
    }
}

/// The image that the flags choose, from the cache or built.
pub(super) async fn image(programs: &Programs, options: &Options) -> Result<Image> {
    let (programs, choice) = (programs.clone(), options.image.clone());
    let build = move || match choice {
        ImageChoice::Debian => debian::image(&programs),
        ImageChoice::Random { layers, megabytes } => {
            let sizes = vec![u64::from(megabytes) * 1_000_000; usize::from(layers)];
            synthetic::image(&programs, 1, &sizes)
        }
    };
    tokio::task::spawn_blocking(build)
        .await
        .map_err(|failed| LabError::Unexpected(failed.to_string()))?
}

fn name(registry: &Registry) -> String {
    format!("{}/{NAME}", registry.authority())
}
