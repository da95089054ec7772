//! From measurements to the numbers that the project is held to.

use serde::Serialize;

use super::measure::{Measured, NodePull};
use super::options::Options;
use crate::image::Image;
use crate::testkit::{Agent, Result};

/// Egress of the origin over the image's size.
const EGRESS_MAX: f64 = 1.3;
/// The last node's wire time over the bound.
const BOUND_MAX: f64 = 1.5;
/// The last node's time until PullImage returned, over the same without Longshore.
const WITHOUT_MAX: f64 = 0.5;
/// What the links carried between nodes may exceed the pieces by this: headers of TCP, TLS and the
/// swarm, acknowledgements, announcements, requests answered twice.
const PEER_OVERHEAD_MAX: f64 = 0.10;
/// The same for what does not grow with the image: joining, plans, announces.
const PEER_OVERHEAD_BYTES: u64 = 2_000_000;

/// Where a node's bytes came from, by its agent's own counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sources {
    origin: u64,
    peers: u64,
    pieces: u64,
}

/// What `demo.json` holds.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Nodes that pulled at once.
    pub nodes: u16,
    /// Sum of the descriptors' sizes.
    pub image_bytes: u64,
    /// Layers of the image.
    pub image_layers: usize,
    /// The image's manifest.
    pub image_digest: String,
    /// Rate of the nodes' links in each direction.
    pub link_mbit_per_s: u32,
    /// Rate of the registry's link.
    pub registry_link_mbit_per_s: u32,
    /// Every pull, digest, container and counter was right, in both runs.
    pub ok: bool,
    /// What was not, in words.
    pub wrong: Vec<String>,
    /// Sent by the registry's link, over the image's size.
    pub origin_egress_ratio: f64,
    /// The last node's wire time over the bound.
    pub last_node_bound_ratio: f64,
    /// The last node's time until PullImage returned, over the same without Longshore.
    pub without_longshore_ratio: f64,
    /// Payload of verified pieces that nodes got from each other.
    pub bytes_from_peers: u64,
    /// What the links carried from node to node: all received by nodes less what the registry sent.
    pub bytes_between_nodes_on_links: u64,
    /// The best possible time for the last node.
    pub bound_seconds: f64,
    /// The last node's wire time.
    pub last_wire_seconds: f64,
    /// The last node's time until PullImage returned.
    pub last_ready_seconds: f64,
    /// The last node's wire time without Longshore.
    pub without_last_wire_seconds: f64,
    /// The last node's time until PullImage returned, without Longshore.
    pub without_last_ready_seconds: f64,
    /// The registry's egress over the image's size, without Longshore.
    pub without_egress_ratio: f64,
    /// The three ratios are within what the project promises.
    pub promises_kept: bool,
    /// Each node.
    pub per_node: Vec<NodeFigures>,
}

/// One node in both runs.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFigures {
    /// Its name.
    pub node: String,
    /// Until the image's bytes had arrived.
    pub wire_seconds: f64,
    /// From then until PullImage returned.
    pub unpack_seconds: f64,
    /// Payload from the origin.
    pub bytes_from_origin: u64,
    /// Payload of verified pieces from peers.
    pub bytes_from_peers: u64,
    /// Pieces that it verified.
    pub verified_pieces: u64,
    /// Whether its container checked every layer.
    pub container_ok: bool,
    /// Wire time without Longshore.
    pub without_wire_seconds: f64,
    /// Unpack time without Longshore.
    pub without_unpack_seconds: f64,
}

/// What the agents say about their bytes.
pub(super) async fn sources(agents: &[Agent]) -> Result<Vec<Sources>> {
    let mut sources = Vec::new();
    for agent in agents {
        let metrics = agent.metrics().await?;
        sources.push(Sources {
            origin: metrics.sum("longshore_origin_received_bytes_total"),
            peers: metrics.sum("longshore_swarm_received_bytes_total"),
            pieces: metrics.sum("longshore_store_pieces_verified_total"),
        });
    }
    Ok(sources)
}

impl Figures {
    /// Puts both runs together. All slices are in the nodes' order.
    pub(super) fn of(
        options: &Options,
        image: &Image,
        with: &Measured,
        sources: &[Sources],
        containers: &[Result<(), String>],
        without: &Measured,
    ) -> Self {
        let bound_seconds = options.bound_seconds(image.bytes());
        let image_bytes = image.bytes() as f64;
        let received: u64 = with.nodes.iter().map(|node| node.received).sum();
        let mut figures = Self {
            nodes: options.nodes,
            image_bytes: image.bytes(),
            image_layers: image.layers.len(),
            image_digest: image.digest.to_string(),
            link_mbit_per_s: options.link_mbit,
            registry_link_mbit_per_s: options.registry_link_mbit(),
            ok: false,
            wrong: Vec::new(),
            origin_egress_ratio: rounded(with.registry_sent as f64 / image_bytes),
            last_node_bound_ratio: rounded(last(with, |node| node.wire_seconds) / bound_seconds),
            without_longshore_ratio: rounded(
                last(with, |node| node.ready_seconds) / last(without, |node| node.ready_seconds),
            ),
            bytes_from_peers: sources.iter().map(|node| node.peers).sum(),
            bytes_between_nodes_on_links: received.saturating_sub(with.registry_sent),
            bound_seconds: rounded(bound_seconds),
            last_wire_seconds: rounded(last(with, |node| node.wire_seconds)),
            last_ready_seconds: rounded(last(with, |node| node.ready_seconds)),
            without_last_wire_seconds: rounded(last(without, |node| node.wire_seconds)),
            without_last_ready_seconds: rounded(last(without, |node| node.ready_seconds)),
            without_egress_ratio: rounded(without.registry_sent as f64 / image_bytes),
            promises_kept: false,
            per_node: per_node(with, sources, containers, without),
        };
        figures.promises_kept = figures.origin_egress_ratio <= EGRESS_MAX
            && figures.last_node_bound_ratio <= BOUND_MAX
            && figures.without_longshore_ratio <= WITHOUT_MAX;
        figures.wrong = wrong_pulls("with Longshore", image, with);
        figures.wrong.extend(wrong_pulls("without Longshore", image, without));
        figures.wrong.extend(wrong_containers(containers));
        figures.wrong.extend(figures.wrong_counters());
        figures.ok = figures.wrong.is_empty();
        figures
    }

    /// The agents' count of bytes from peers must fit what the links carried between nodes.
    fn wrong_counters(&self) -> Option<String> {
        let (counted, carried) = (self.bytes_from_peers, self.bytes_between_nodes_on_links);
        let most = (counted as f64 * (1.0 + PEER_OVERHEAD_MAX)) as u64 + PEER_OVERHEAD_BYTES;
        let fits = counted <= carried && carried <= most;
        (!fits).then(|| format!("agents count {counted} bytes from peers, links carried {carried}"))
    }
}

fn per_node(
    with: &Measured,
    sources: &[Sources],
    containers: &[Result<(), String>],
    without: &Measured,
) -> Vec<NodeFigures> {
    let rows = with.nodes.iter().zip(sources).zip(containers).zip(&without.nodes).enumerate();
    rows.map(|(number, (((with, sources), container), without))| NodeFigures {
        node: format!("node{}", number + 1),
        wire_seconds: rounded(with.wire_seconds),
        unpack_seconds: rounded(with.ready_seconds - with.wire_seconds),
        bytes_from_origin: sources.origin,
        bytes_from_peers: sources.peers,
        verified_pieces: sources.pieces,
        container_ok: container.is_ok(),
        without_wire_seconds: rounded(without.wire_seconds),
        without_unpack_seconds: rounded(without.ready_seconds - without.wire_seconds),
    })
    .collect()
}

fn wrong_pulls(run: &str, image: &Image, measured: &Measured) -> Vec<String> {
    let nodes = measured.nodes.iter().enumerate();
    nodes
        .filter_map(|(number, node)| {
            let wrong = match &node.image {
                Err(failed) => failed.clone(),
                Ok(pulled) if pulled.id != image.config.digest.to_string() => {
                    format!("the image's id is {}", pulled.id)
                }
                Ok(pulled) if !pulled.manifests.contains(&image.digest.to_string()) => {
                    format!("the manifest is {:?}", pulled.manifests)
                }
                Ok(_) => return None,
            };
            Some(format!("{run}, node{}: {wrong}", number + 1))
        })
        .collect()
}

fn wrong_containers(containers: &[Result<(), String>]) -> Vec<String> {
    let failures = containers.iter().enumerate().filter_map(|(number, outcome)| {
        outcome.as_ref().err().map(|failed| format!("container on node{}: {failed}", number + 1))
    });
    failures.collect()
}

fn last(measured: &Measured, time: impl Fn(&NodePull) -> f64) -> f64 {
    measured.nodes.iter().map(time).fold(0.0, f64::max)
}

/// Three decimals: a thousandth of a second or of a ratio.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use longshore_proto::{Algorithm, Descriptor, Digest};

    use super::*;
    use crate::image::layout::Check;
    use crate::testkit::cri::PulledImage;

    const MB: u64 = 1_000_000;

    fn image() -> Image {
        let blob = |name: &[u8], size| {
            let digest = Digest::of(Algorithm::Sha256, name);
            Descriptor { media_type: String::new(), digest, size }
        };
        Image {
            layout: "/nowhere".into(),
            digest: Digest::of(Algorithm::Sha256, b"manifest"),
            manifest: Vec::new(),
            config: blob(b"config", MB),
            layers: vec![blob(b"layer", 99 * MB)],
            check: Check { command: Vec::new(), prints: String::new() },
        }
    }

    /// Two nodes that took so long, and a registry that sent so much.
    fn measured(image: &Image, ready_seconds: f64, registry_sent: u64) -> Measured {
        let node = || NodePull {
            image: Ok(PulledImage {
                id: image.config.digest.to_string(),
                manifests: vec![image.digest.to_string()],
            }),
            ready_seconds,
            wire_seconds: ready_seconds - 1.0,
            received: 104 * MB,
        };
        Measured { nodes: vec![node(), node()], registry_sent }
    }

    fn figures(with: &Measured, from_peers: u64, container: Result<(), String>) -> Figures {
        let options = Options::parse_from(["demo", "--nodes", "2"]);
        let sources = [Sources { origin: 50 * MB, peers: from_peers, pieces: 100 }; 2];
        let without = measured(&image(), 40.0, 208 * MB);
        Figures::of(&options, &image(), with, &sources, &[Ok(()), container], &without)
    }

    #[test]
    fn a_good_run_is_ok_and_keeps_the_promises() {
        let figures = figures(&measured(&image(), 17.0, 104 * MB), 50 * MB, Ok(()));
        assert_eq!(figures.wrong, Vec::<String>::new());
        assert!(figures.ok && figures.promises_kept);
        assert_eq!(figures.origin_egress_ratio, 1.04);
        assert_eq!(figures.last_node_bound_ratio, 1.0);
        assert_eq!(figures.without_longshore_ratio, 0.425);
        assert_eq!(figures.bytes_from_peers, 100 * MB);
    }

    #[test]
    fn a_failed_pull_a_wrong_digest_and_a_broken_container_are_each_named() {
        let mut with = measured(&image(), 17.0, 104 * MB);
        with.nodes[0].image = Err("refused".to_owned());
        with.nodes[1].image = Ok(PulledImage { id: "sha256:other".to_owned(), manifests: vec![] });
        let figures = figures(&with, 50 * MB, Err("exit 1".to_owned()));
        assert!(!figures.ok);
        assert_eq!(figures.wrong.len(), 3, "{:?}", figures.wrong);
    }

    #[test]
    fn agents_that_count_what_the_links_did_not_carry_are_wrong() {
        let with = measured(&image(), 17.0, 104 * MB);
        assert!(!figures(&with, 60 * MB, Ok(())).ok, "more than was carried");
        assert!(!figures(&with, 20 * MB, Ok(())).ok, "far less than was carried");
    }

    #[test]
    fn a_ratio_beyond_its_limit_is_a_broken_promise_and_not_an_error() {
        let figures = figures(&measured(&image(), 30.0, 104 * MB), 50 * MB, Ok(()));
        assert!(figures.ok && !figures.promises_kept);
    }
}
