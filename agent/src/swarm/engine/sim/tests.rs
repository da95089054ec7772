//! What the engines must reach together: near the bound, for one copy, whoever misbehaves.

use super::*;

const MBIT_50: u64 = 50_000_000 / 8;

/// The demo: eleven layers, 220 MiB, every link 50 Mbit/s.
fn demo(nodes: usize, seed: u64) -> Setup {
    Setup {
        nodes,
        blobs: [61, 40, 30, 25, 20, 14, 12, 8, 5, 3, 2].map(|mib| (mib << 20) - 12_345).to_vec(),
        piece_bytes: 1 << 20,
        link: MBIT_50,
        store_link: MBIT_50,
        seed,
        vices: BTreeMap::new(),
        tracker_dies_at: None,
        limits: Limits::default(),
    }
}

impl Outcome {
    /// Over max(B/u_s, B/d, N·B/(u_s + Σu_i)) of a `demo` with so many nodes.
    fn bound_ratio(&self, nodes: u64) -> f64 {
        let image = self.image_bytes as f64;
        let link = MBIT_50 as f64;
        let bound = (image / link).max(nodes as f64 * image / (link + nodes as f64 * link));
        self.finish as f64 / 1e6 / bound
    }

    fn egress_ratio(&self) -> f64 {
        self.store_bytes as f64 / self.image_bytes as f64
    }
}

fn assert_near_the_bound(nodes: usize, seeds: std::ops::Range<u64>, most: f64) {
    for seed in seeds {
        let outcome = Sim::new(demo(nodes, seed)).run();
        let (finish, egress) = (outcome.bound_ratio(nodes as u64), outcome.egress_ratio());
        println!("{nodes} nodes, seed {seed}: {finish:.3} of the bound, {egress:.3} copies");
        assert_eq!(outcome.done.len(), nodes);
        assert!(finish <= most, "seed {seed}: {finish} of the bound");
        assert!(egress <= 1.15, "seed {seed}: {egress} of the image");
    }
}

#[test]
fn six_nodes_finish_near_the_bound_for_one_copy() {
    assert_near_the_bound(6, 0..4, 1.2);
}

#[test]
fn fifty_nodes_finish_near_the_bound_for_one_copy() {
    assert_near_the_bound(50, 0..1, 1.35);
}

#[test]
fn one_node_alone_is_as_fast_as_the_store() {
    let outcome = Sim::new(demo(1, 1)).run();
    assert!(outcome.finish as f64 / 1e6 <= 1.05 * outcome.image_bytes as f64 / MBIT_50 as f64);
}

#[test]
fn one_seed_gives_one_trace() {
    let trace = |seed| Sim::new(demo(6, seed)).run().trace;
    let first = trace(7);
    assert!(!first.is_empty() && first == trace(7));
    assert_ne!(first, trace(8));
}

fn with_vices(nodes: usize, vices: impl IntoIterator<Item = (usize, Vice)>) -> Outcome {
    Sim::new(Setup { vices: vices.into_iter().collect(), ..demo(nodes, 3) }).run()
}

#[test]
fn all_finish_while_peers_die() {
    let outcome = with_vices(8, [(2, Vice::Dies(5_000_000)), (5, Vice::Dies(20_000_000))]);
    assert_eq!(outcome.done.len(), 6);
    assert!(outcome.egress_ratio() <= 1.6, "{}", outcome.egress_ratio());
}

#[test]
fn all_finish_beside_a_peer_that_stalls() {
    let outcome = with_vices(6, [(1, Vice::Stalls)]);
    assert_eq!(outcome.done.len(), 6);
}

#[test]
fn all_finish_beside_a_peer_that_lies() {
    let outcome = with_vices(6, [(4, Vice::Lies)]);
    assert_eq!(outcome.done.len(), 6);
    assert!((1..=5 * 12).contains(&outcome.bad), "{} wrong pieces", outcome.bad);
}

#[test]
fn all_finish_without_a_tracker() {
    let outcome = Sim::new(Setup { tracker_dies_at: Some(3_000_000), ..demo(6, 5) }).run();
    assert_eq!(outcome.done.len(), 6);
    assert!(outcome.egress_ratio() <= 3.0, "{}", outcome.egress_ratio());
}
