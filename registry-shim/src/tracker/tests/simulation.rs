//! Many nodes pull one image through one tracker, in rounds; a seed makes a run again.
//!
//! Far simpler than the swarm: each round a node takes two pieces from peers that it was told of
//! and gives away two. What is checked is the tracker's part: everybody finishes, and the store is
//! read about once.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;

use super::support::{TestBlob, blob, member, peer, with};
use crate::tracker::member::mix;
use crate::tracker::{Tracker, TrackerConfig};

const ROUND_MS: u64 = 50;
const LAYERS: u32 = 8;
const PIECES_PER_LAYER: u32 = 32;
const POOL: u64 = (LAYERS * PIECES_PER_LAYER) as u64;
/// Pieces that a node takes from peers, and gives to them, in a round.
const PIECES_PER_ROUND: usize = 2;
/// Refusals after which a holder that has nothing is reported.
const PATIENCE: u32 = 5;

#[derive(Clone, Copy, Debug)]
struct Scenario {
    nodes: u64,
    seed: u64,
    /// One node in so many dies in mid-pull.
    deaths: Option<u64>,
    /// One node in so many says that it holds everything, takes permits and serves nothing.
    liars: Option<u64>,
    /// A new tracker takes over at this time.
    restart_ms: Option<u64>,
}

#[derive(Debug, PartialEq)]
struct Outcome {
    finished: bool,
    seconds: f64,
    /// Pieces given, over pieces of the pool.
    ratio: f64,
    trace: u64,
}

struct Node {
    have: Vec<PieceSet>,
    reads: BTreeMap<(u32, u32), (u64, u64)>,
    known: BTreeSet<u64>,
    sequence: u64,
    complete: bool,
    ask_ms: u64,
    announce_ms: u64,
    dies_ms: u64,
    is_liar: bool,
    refused: BTreeMap<(u64, u32, u32), u32>,
    unreachable: Vec<rpc::Unreachable>,
}

struct World {
    scenario: Scenario,
    tracker: Tracker,
    nodes: Vec<Node>,
    now_ms: u64,
    random: u64,
    given: u64,
    trace: u64,
}

fn layer(number: u32) -> TestBlob {
    blob(number, PIECES_PER_LAYER)
}

fn pieces_of(set: &PieceSet) -> Vec<u32> {
    set.iter().map(|piece| piece.0).collect()
}

impl Node {
    fn is_done(&self) -> bool {
        self.have.iter().all(PieceSet::is_full)
    }

    /// The first piece that `other` has and this node lacks.
    fn first_from(&self, other: &Self) -> Option<(u32, u32)> {
        self.have.iter().zip(&other.have).enumerate().find_map(|(number, (mine, theirs))| {
            let piece = (theirs.words()[0] & !mine.words()[0]).trailing_zeros();
            let is_read = self.reads.contains_key(&(number as u32, piece));
            (piece < PIECES_PER_LAYER && !is_read).then_some((number as u32, piece))
        })
    }
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let mut world = Self {
            scenario,
            tracker: with(TrackerConfig { seed: scenario.seed, ..TrackerConfig::default() }),
            nodes: Vec::new(),
            now_ms: 0,
            random: scenario.seed,
            given: 0,
            trace: 0,
        };
        for number in 0..scenario.nodes {
            let is_one_in = |one_in: Option<u64>, at| one_in.is_some_and(|n| number % n == at);
            let start_ms = world.random(400);
            let is_liar = is_one_in(scenario.liars, 1);
            world.nodes.push(Node {
                have: (0..LAYERS).map(|_| PieceSet::empty(PIECES_PER_LAYER)).collect(),
                reads: BTreeMap::new(),
                known: BTreeSet::new(),
                sequence: 0,
                complete: true,
                ask_ms: start_ms,
                announce_ms: start_ms,
                dies_ms: if is_one_in(scenario.deaths, 2) { 1_500 } else { u64::MAX },
                is_liar,
                refused: BTreeMap::new(),
                unreachable: vec![],
            });
        }
        world
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random) % below
    }

    fn is_alive(&self, node: u64) -> bool {
        self.nodes[node as usize].dies_ms > self.now_ms
    }

    fn run(mut self) -> Outcome {
        let finished = loop {
            let waits = |n: &u64| {
                let node = &self.nodes[*n as usize];
                self.is_alive(*n) && !node.is_liar && !node.is_done()
            };
            if !(0..self.scenario.nodes).any(|n| waits(&n)) {
                break true;
            }
            if self.now_ms > 180_000 {
                break false;
            }
            self.round();
        };
        let ratio = self.given as f64 / POOL as f64;
        Outcome { finished, seconds: self.now_ms as f64 / 1e3, ratio, trace: self.trace }
    }

    fn round(&mut self) {
        if self.scenario.restart_ms == Some(self.now_ms) {
            let seed = self.scenario.seed + 1;
            self.tracker = with(TrackerConfig { seed, ..TrackerConfig::default() });
        }
        let mut uploads = vec![PIECES_PER_ROUND; self.nodes.len()];
        let first = self.random(self.scenario.nodes);
        for at in 0..self.scenario.nodes {
            let n = (first + at) % self.scenario.nodes;
            if !self.is_alive(n) {
                continue;
            }
            self.finish_reads(n);
            if self.nodes[n as usize].announce_ms <= self.now_ms {
                self.announce(n);
            }
            if self.nodes[n as usize].is_liar || !self.nodes[n as usize].is_done() {
                self.take_from_peers(n, &mut uploads);
                if self.nodes[n as usize].ask_ms <= self.now_ms {
                    self.ask(n);
                }
            }
        }
        self.now_ms += ROUND_MS;
    }

    fn finish_reads(&mut self, n: u64) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[n as usize];
        if node.is_liar {
            return;
        }
        let done: Vec<_> =
            node.reads.iter().filter(|(_, (at, _))| *at <= now_ms).map(|(k, _)| *k).collect();
        for (number, piece) in done {
            node.reads.remove(&(number, piece));
            node.have[number as usize].insert(PieceIndex(piece));
        }
    }

    fn announce(&mut self, n: u64) {
        let node = &mut self.nodes[n as usize];
        node.sequence += 1;
        let holdings = (0..LAYERS)
            .map(|number| match node.is_liar {
                true => layer(number).whole(),
                false => layer(number).holding(&pieces_of(&node.have[number as usize])),
            })
            .collect();
        let wanted = (0..LAYERS).filter(|number| !node.have[*number as usize].is_full());
        let request = rpc::AnnounceRequest {
            sequence: node.sequence,
            complete: node.complete,
            holdings,
            wanted_digests: wanted.map(|number| layer(number).digest.to_string()).collect(),
            ..Default::default()
        };
        let answer = self.tracker.announce(self.now_ms, &member(n), request).unwrap();
        let node = &mut self.nodes[n as usize];
        node.complete = answer.resync;
        node.announce_ms = if answer.resync {
            self.now_ms + ROUND_MS
        } else {
            self.now_ms + u64::from(answer.next_announce_ms)
        };
        node.known.extend(answer.peers.iter().map(|peer| number_of(&peer.peer_id)));
    }

    fn take_from_peers(&mut self, n: u64, uploads: &mut [usize]) {
        if self.nodes[n as usize].is_liar {
            return;
        }
        let known: Vec<u64> = self.nodes[n as usize].known.iter().copied().collect();
        if known.is_empty() {
            return;
        }
        let start = self.random(known.len() as u64) as usize;
        let mut room = PIECES_PER_ROUND;
        for other in known[start..].iter().chain(&known[..start]).copied() {
            if room == 0 {
                return;
            }
            if uploads[other as usize] == 0 || !self.is_alive(other) {
                continue;
            }
            let (mine, theirs) = (&self.nodes[n as usize], &self.nodes[other as usize]);
            if let Some((number, piece)) = mine.first_from(theirs) {
                uploads[other as usize] -= 1;
                room -= 1;
                self.nodes[n as usize].have[number as usize].insert(PieceIndex(piece));
                self.nodes[other as usize].known.insert(n);
            }
        }
    }

    fn ask(&mut self, n: u64) {
        let node = &mut self.nodes[n as usize];
        let mut is_first = true;
        let wants = (0..LAYERS)
            .filter(|number| !node.have[*number as usize].is_full())
            .map(|number| {
                let have = &node.have[number as usize];
                let cursor = have.missing().next().filter(|_| std::mem::take(&mut is_first));
                let urgent: Vec<u32> = cursor.map(|piece| piece.0).into_iter().collect();
                layer(number).urgent(&pieces_of(have), &urgent)
            })
            .collect();
        let held = |((number, piece), (_, permit_id)): (&(u32, u32), &(u64, u64))| {
            let (digest, piece) = (layer(*number).digest.to_string(), *piece);
            rpc::HeldPermit { digest, piece, permit_id: *permit_id }
        };
        let request = rpc::PermitRequest {
            wants,
            held: node.reads.iter().map(held).collect(),
            unreachable: std::mem::take(&mut node.unreachable),
            pieces_max: 8,
        };
        let answer = self.tracker.permit(self.now_ms, &member(n), request).unwrap();
        self.nodes[n as usize].ask_ms = self.now_ms + u64::from(answer.retry_after_ms);
        for grant in &answer.grants {
            let number = number_of_layer(grant.digest.to_string().as_str());
            for piece in grant.first.0..grant.first.0 + grant.pieces {
                self.given += 1;
                self.trace = mix(self.trace ^ mix(n << 32 | u64::from(number * 1000 + piece)));
                let done_ms = self.now_ms + 100 + self.random(200);
                let node = &mut self.nodes[n as usize];
                node.reads.insert((number, piece), (done_ms, grant.permit_id));
            }
        }
        self.hear_refusals(n, &answer.refusals);
    }

    /// Whoever is said to have a piece becomes known, and is reported if it never has it.
    fn hear_refusals(&mut self, n: u64, refusals: &[rpc::Refusal]) {
        for refusal in refusals {
            let number = number_of_layer(&refusal.digest);
            for holder in refusal.holders.iter().map(|peer| number_of(&peer.peer_id)) {
                self.nodes[n as usize].known.insert(holder);
                let serves = self.is_alive(holder)
                    && (self.nodes[holder as usize].have[number as usize]
                        .contains(PieceIndex(refusal.piece))
                        || !self.nodes[holder as usize].is_liar);
                if serves {
                    continue;
                }
                let node = &mut self.nodes[n as usize];
                let count = node.refused.entry((holder, number, refusal.piece)).or_default();
                *count += 1;
                if *count >= PATIENCE {
                    *count = 0;
                    node.unreachable.push(layer(number).unreachable(holder, refusal.piece));
                }
            }
        }
    }
}

fn number_of(peer_id: &str) -> u64 {
    let number = peer_id.strip_prefix("peer-").unwrap().parse().unwrap();
    assert_eq!(peer(number), peer_id);
    number
}

fn number_of_layer(digest: &str) -> u32 {
    (0..LAYERS).find(|number| layer(*number).digest.to_string() == digest).unwrap()
}

fn plain(nodes: u64, seed: u64) -> Scenario {
    Scenario { nodes, seed, deaths: None, liars: None, restart_ms: None }
}

fn run(scenario: Scenario) -> Outcome {
    let outcome = World::new(scenario).run();
    println!("{scenario:?} {outcome:?}");
    assert!(outcome.finished, "{scenario:?} {outcome:?}");
    outcome
}

#[test]
fn everybody_finishes_and_the_store_is_read_once() {
    for (nodes, seed) in [(1, 1), (2, 2), (6, 3), (6, 4), (50, 5), (300, 6)] {
        let outcome = run(plain(nodes, seed));
        assert!(outcome.ratio <= 1.1, "{nodes} nodes: {outcome:?}");
    }
}

#[test]
fn everybody_finishes_while_nodes_die() {
    for (nodes, seed) in [(6, 13), (50, 15), (300, 16)] {
        let outcome = run(Scenario { deaths: Some(5), ..plain(nodes, seed) });
        assert!(outcome.ratio <= 1.3, "{nodes} nodes: {outcome:?}");
    }
}

#[test]
fn a_restarted_tracker_is_whole_again_soon() {
    for (nodes, seed) in [(6, 23), (50, 25), (300, 26)] {
        let outcome = run(Scenario { restart_ms: Some(1_000), ..plain(nodes, seed) });
        assert!(outcome.ratio <= 1.1, "{nodes} nodes: {outcome:?}");
    }
}

#[test]
fn a_restart_while_nodes_die_is_survived() {
    for (nodes, seed) in [(6, 33), (50, 35)] {
        let (deaths, restart_ms) = (Some(5), Some(1_550));
        let outcome = run(Scenario { deaths, restart_ms, ..plain(nodes, seed) });
        assert!(outcome.ratio <= 1.3, "{nodes} nodes: {outcome:?}");
    }
}

#[test]
fn liars_slow_the_fleet_but_do_not_stop_it() {
    for (nodes, seed) in [(6, 43), (50, 45)] {
        let outcome = run(Scenario { liars: Some(6), ..plain(nodes, seed) });
        assert!(outcome.ratio <= 2.0, "{nodes} nodes: {outcome:?}");
    }
}

#[test]
fn a_seed_makes_the_same_run_again() {
    let scenario = Scenario { deaths: Some(7), liars: Some(9), ..plain(50, 77) };
    let (first, second) = (World::new(scenario).run(), World::new(scenario).run());
    assert_eq!(first, second);
    let other = World::new(Scenario { seed: 78, ..scenario }).run();
    assert_ne!(first.trace, other.trace);
}
