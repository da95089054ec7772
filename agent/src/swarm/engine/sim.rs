//! Engines against each other in simulated time: shared links, a tracker, and nodes that die,
//! stall or lie. Seeded; one seed gives one trace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::multihash::Multihash;
use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Algorithm, Digest};
use std::sync::Arc;

use super::peers::mix;
use super::*;
use crate::origin::memory::MemoryTracker;

mod links;
mod tests;

/// One way, between any two.
const LATENCY: u64 = 1_000;
/// Until flows that came or went are felt by others, µs.
const SHARE_DELAY: u64 = 5_000;
/// Where the store stands among the ends of flows.
const STORE: usize = usize::MAX;

/// How a node misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vice {
    /// Gone at this time, µs.
    Dies(u64),
    /// Takes requests and never sends.
    Stalls,
    /// Sends wrong bytes.
    Lies,
}

struct Setup {
    nodes: usize,
    /// Sizes of the blobs, in the order of want.
    blobs: Vec<u64>,
    piece_bytes: u64,
    /// Bytes per second of every node's link in each direction, and of the store's.
    link: u64,
    store_link: u64,
    seed: u64,
    vices: BTreeMap<usize, Vice>,
    tracker_dies_at: Option<u64>,
    limits: Limits,
}

/// What came of it.
struct Outcome {
    /// When the last honest, living node was done, µs.
    finish: u64,
    /// Nodes that were done.
    done: BTreeSet<usize>,
    store_bytes: u64,
    image_bytes: u64,
    bad: usize,
    trace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Tick(usize),
    /// A message reaches a node.
    Deliver(usize, usize),
    FlowEnds(u64, u64),
    Die(usize),
    Share,
}

#[derive(Clone, Debug)]
enum Message {
    Input(Input),
    Request { from: usize, request: RequestId, digest: Digest, piece: PieceIndex },
    Cancel { from: usize, request: RequestId },
    Ask(PermitAsk),
    Up(usize),
    Dial(usize),
}

/// Bytes on their way; those from one node to another go one after the other.
struct Flow {
    from: usize,
    to: usize,
    left: f64,
    moved: f64,
    rate: f64,
    since: u64,
    version: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Piece { request: RequestId, digest: Digest, piece: PieceIndex },
    Read { read: ReadId, digest: Digest, pieces: VecDeque<u32> },
}

struct Node {
    engine: Engine,
    held: BTreeMap<Digest, PieceSet>,
    done: usize,
    finished_at: Option<u64>,
    alive: bool,
    serving: BTreeMap<(usize, RequestId), (Digest, PieceIndex)>,
    queues: BTreeMap<usize, VecDeque<What>>,
    asked: BTreeMap<RequestId, (usize, Digest, PieceIndex)>,
    peers: BTreeSet<usize>,
    ticking: u64,
}

struct Sim {
    setup: Setup,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    messages: BTreeMap<usize, Message>,
    next: u64,
    nodes: Vec<Node>,
    ids: BTreeMap<PeerId, usize>,
    digests: Vec<Digest>,
    tracker: MemoryTracker,
    flows: BTreeMap<u64, Flow>,
    ends: BTreeMap<(bool, usize), BTreeSet<u64>>,
    /// Flows have come or gone since the links were shared.
    unshared: bool,
    outcome: Outcome,
}

fn id(node: usize) -> PeerId {
    let hash = Multihash::<64>::wrap(0, &(node as u64).to_be_bytes()).unwrap();
    PeerId::from_multihash(hash).unwrap()
}

impl Sim {
    fn new(setup: Setup) -> Self {
        let digests: Vec<Digest> = (0..setup.blobs.len())
            .map(|blob| Digest::of(Algorithm::Sha256, &blob.to_be_bytes()))
            .collect();
        let nodes = (0..setup.nodes).map(|node| Node {
            engine: Engine::new(setup.limits.clone(), mix(setup.seed ^ node as u64)),
            held: BTreeMap::new(),
            done: 0,
            finished_at: None,
            alive: true,
            serving: BTreeMap::new(),
            queues: BTreeMap::new(),
            asked: BTreeMap::new(),
            peers: BTreeSet::new(),
            ticking: u64::MAX,
        });
        let outcome = Outcome {
            finish: 0,
            done: BTreeSet::new(),
            store_bytes: 0,
            image_bytes: setup.blobs.iter().sum(),
            bad: 0,
            trace: String::new(),
        };
        Self {
            nodes: nodes.collect(),
            ids: (0..setup.nodes).map(|node| (id(node), node)).collect(),
            digests,
            tracker: MemoryTracker::default(),
            now: 0,
            events: BinaryHeap::new(),
            messages: BTreeMap::new(),
            next: 0,
            flows: BTreeMap::new(),
            ends: BTreeMap::new(),
            unshared: false,
            outcome,
            setup,
        }
    }

    fn run(mut self) -> Outcome {
        for node in 0..self.setup.nodes {
            if let Some(Vice::Dies(at)) = self.setup.vices.get(&node) {
                self.at(*at, Event::Die(node));
            }
            let start = mix(self.setup.seed ^ (node as u64) << 20) % 20_000;
            for other in (0..self.setup.nodes).filter(|other| *other != node) {
                let met = Input::Meet { peer: id(other), same_zone: true };
                self.send_at(start, node, Message::Input(met));
            }
            for (order, size) in self.setup.blobs.clone().into_iter().enumerate() {
                let pieces = size.div_ceil(self.setup.piece_bytes) as u32;
                self.nodes[node].held.insert(self.digests[order], PieceSet::empty(pieces));
                let want = WantBlob {
                    digest: self.digests[order],
                    size,
                    piece_bytes: self.setup.piece_bytes,
                    order: order as u64,
                    held: PieceSet::empty(pieces),
                };
                self.send_at(start, node, Message::Input(Input::Want(want)));
            }
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            assert!(at < 3_600_000_000, "the simulation does not end");
            self.step(event);
            if self.honest().all(|node| self.nodes[node].finished_at.is_some()) {
                break;
            }
        }
        let honest: Vec<usize> = self.honest().collect();
        self.outcome.finish =
            honest.iter().filter_map(|node| self.nodes[*node].finished_at).max().unwrap_or(0);
        let done = honest.into_iter().filter(|node| self.nodes[*node].finished_at.is_some());
        self.outcome.done = done.collect();
        self.outcome
    }

    /// Nodes that shall finish.
    fn honest(&self) -> impl Iterator<Item = usize> {
        let vices = &self.setup.vices;
        (0..self.nodes.len()).filter(|node| !matches!(vices.get(node), Some(Vice::Dies(_))))
    }

    fn at(&mut self, at: u64, event: Event) {
        self.next += 1;
        self.events.push(Reverse((at, self.next, event)));
    }

    fn send_at(&mut self, at: u64, node: usize, message: Message) {
        let name = self.next as usize;
        self.messages.insert(name, message);
        self.at(at, Event::Deliver(node, name));
    }

    fn send(&mut self, node: usize, message: Message) {
        self.send_at(self.now + LATENCY, node, message);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Tick(node) => {
                if self.nodes[node].alive && self.nodes[node].ticking == self.now {
                    self.progress(node);
                    self.input(node, Input::Tick);
                }
            }
            Event::Deliver(node, name) => {
                let message = self.messages.remove(&name).unwrap();
                if self.nodes[node].alive {
                    self.deliver(node, message);
                }
            }
            Event::FlowEnds(flow, version) => {
                if self.flows.get(&flow).is_some_and(|flow| flow.version == version) {
                    self.flow_ends(flow);
                }
            }
            Event::Die(node) => self.die(node),
            Event::Share => {
                self.unshared = false;
                self.share();
            }
        }
    }

    fn deliver(&mut self, node: usize, message: Message) {
        match message {
            Message::Input(input) => self.input(node, input),
            Message::Request { from, request, digest, piece } => {
                self.nodes[node].serving.insert((from, request), (digest, piece));
                self.input(node, Input::Upload { peer: id(from), request });
            }
            Message::Cancel { from, request } => {
                let its =
                    |what: &What| matches!(what, What::Piece { request: r, .. } if *r == request);
                let queue = self.nodes[node].queues.entry(from).or_default();
                let before = queue.len();
                // The head is on the wire already.
                let mut kept = std::mem::take(queue);
                let head = kept.pop_front();
                kept.retain(|what| !its(what));
                queue.extend(head.into_iter().chain(kept));
                if queue.len() < before {
                    self.input(node, Input::UploadEnded { peer: id(from), request });
                }
            }
            Message::Ask(ask) => self.answer(node, ask),
            Message::Dial(from) => {
                if self.nodes[from].alive && self.nodes[node].peers.insert(from) {
                    self.nodes[from].peers.insert(node);
                    self.send(from, Message::Up(node));
                    self.deliver(node, Message::Up(from));
                }
            }
            Message::Up(peer) => {
                self.input(node, Input::PeerUp { peer: id(peer), same_zone: true });
            }
        }
    }

    /// The tracker answers a node.
    fn answer(&mut self, node: usize, ask: PermitAsk) {
        let down = self.setup.tracker_dies_at.is_some_and(|at| self.now >= at);
        let input = if down {
            Input::PermitsFailed { retry_after: None }
        } else {
            let wants = ask.wants.iter().map(|want| {
                let blob = self.digests.iter().position(|digest| *digest == want.digest).unwrap();
                rpc::PermitWant {
                    digest: want.digest.to_string(),
                    size: self.setup.blobs[blob],
                    piece_length: self.setup.piece_bytes,
                    have_bitmap: want.held.to_bitmap().into(),
                    urgent: want.urgent.iter().map(|piece| piece.0).collect(),
                    ..Default::default()
                }
            });
            let held = ask.held.iter().map(|(digest, piece, permit_id)| rpc::HeldPermit {
                digest: digest.to_string(),
                piece: piece.0,
                permit_id: *permit_id,
            });
            let unreachable = ask.unreachable.iter().map(|(peer, digest, piece)| {
                let (peer_id, digest) = (peer.to_string(), digest.to_string());
                rpc::Unreachable { peer_id, digest, piece: piece.0 }
            });
            let request = rpc::PermitRequest {
                wants: wants.collect(),
                held: held.collect(),
                unreachable: unreachable.collect(),
                pieces_max: ask.pieces_max,
            };
            let now = Duration::from_micros(self.now);
            let answer = self.tracker.permit(now, &id(node).to_string(), &request);
            let permits = answer.permits.into_iter().map(|permit| Leave {
                digest: permit.digest.parse().unwrap(),
                permit: Arc::new(permit),
            });
            let refusals = answer.refusals.into_iter().map(|refusal| {
                let holders = refusal.holders.iter().map(|peer| peer.peer_id.parse().unwrap());
                let digest = refusal.digest.parse().unwrap();
                (digest, PieceIndex(refusal.piece), holders.collect())
            });
            let (permits, refusals) = (permits.collect(), refusals.collect());
            let retry_after = Duration::from_millis(u64::from(answer.retry_after_ms));
            let retry_after = Some(retry_after).filter(|wait| !wait.is_zero());
            Input::Permits(PermitReply { permits, refusals, retry_after })
        };
        self.send(node, Message::Input(input));
    }

    fn input(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        let now = Duration::from_micros(self.now);
        self.nodes[node].engine.handle(now, input, &mut out);
        for output in out {
            if self.setup.nodes <= 6 {
                writeln!(self.outcome.trace, "{} {node} {output:?}", self.now).unwrap();
            }
            self.output(node, output);
        }
        let tick = self.nodes[node].engine.tick_at().as_micros() as u64;
        let tick = tick.max(self.now + 1);
        if self.nodes[node].ticking != tick {
            self.nodes[node].ticking = tick;
            self.at(tick, Event::Tick(node));
        }
    }

    fn output(&mut self, node: usize, output: Output) {
        match output {
            Output::Request { peer, request, digest, piece } => {
                let to = self.ids[&peer];
                self.nodes[node].asked.insert(request, (to, digest, piece));
                self.send(to, Message::Request { from: node, request, digest, piece });
            }
            Output::Cancel { peer, request, .. } => {
                self.nodes[node].asked.remove(&request);
                self.send(self.ids[&peer], Message::Cancel { from: node, request });
            }
            Output::AskPermits(ask) => {
                self.send_at(self.now + LATENCY, node, Message::Ask(ask));
            }
            Output::Read { read, digest, first, pieces, .. } => {
                let pieces = (first.0..first.0 + pieces).collect();
                self.start_flow(STORE, node, What::Read { read, digest, pieces });
            }
            Output::CancelRead(cancelled) => {
                let its = |flow: &Flow| {
                    flow.to == node
                        && matches!(flow.what, What::Read { read, .. } if read == cancelled)
                };
                let flow = self.flows.iter().find(|(_, flow)| its(flow)).map(|(name, _)| *name);
                flow.into_iter().for_each(|flow| drop(self.end_flow(flow)));
            }
            Output::TellHave { peers, digest, runs } => {
                let runs = runs.unwrap_or_else(|| self.nodes[node].held[&digest].runs());
                for peer in peers {
                    let have = Input::Have { peer: id(node), digest, runs: runs.clone() };
                    self.send(self.ids[&peer], Message::Input(have));
                }
            }
            Output::TellWant { peers, digests } => {
                for peer in peers {
                    let digests = digests.clone();
                    let interest = Input::Interest { peer: id(node), digests };
                    self.send(self.ids[&peer], Message::Input(interest));
                }
            }
            Output::Dial(peer) => self.dial(node, self.ids[&peer]),
            Output::Drop { peer, .. } => self.hang_up(node, self.ids[&peer]),
            Output::Serve { peer, request } => self.serve(node, self.ids[&peer], request),
            Output::TellBusy { peer, request } => {
                let to = self.ids[&peer];
                self.nodes[node].serving.remove(&(to, request));
                self.send(to, Message::Input(Input::Busy(request)));
            }
            Output::Done(digest) => {
                self.announce(node, &digest);
                self.nodes[node].done += 1;
                if self.nodes[node].done == self.digests.len() {
                    self.nodes[node].finished_at = Some(self.now);
                }
            }
            Output::Failed { digest, why } => {
                panic!("node {node} failed {} at {}: {why:?}", digest.fmt_short(), self.now)
            }
        }
    }

    /// A node that is done with a blob tells the tracker.
    fn announce(&mut self, node: usize, digest: &Digest) {
        let blob = self.digests.iter().position(|known| known == digest).unwrap();
        let holding = rpc::Holding {
            digest: digest.to_string(),
            size: self.setup.blobs[blob],
            piece_length: self.setup.piece_bytes,
            whole: true,
            ..Default::default()
        };
        let request = rpc::AnnounceRequest { holdings: vec![holding], ..Default::default() };
        self.tracker.announce(Duration::from_micros(self.now), &id(node).to_string(), &request);
    }

    fn dial(&mut self, node: usize, to: usize) {
        if !self.nodes[to].alive {
            let failed = Message::Input(Input::DialFailed(id(to)));
            self.send_at(self.now + 200_000, node, failed);
        } else if self.nodes[node].peers.contains(&to) {
            self.send(node, Message::Up(to));
        } else {
            self.send(to, Message::Dial(node));
        }
    }

    fn hang_up(&mut self, node: usize, peer: usize) {
        self.nodes[peer].peers.remove(&node);
        self.nodes[node].peers.remove(&peer);
        for (near, far) in [(node, peer), (peer, node)] {
            self.nodes[near].queues.remove(&far);
            self.nodes[near].serving.retain(|(to, _), _| *to != far);
            self.nodes[near].asked.retain(|_, (to, _, _)| *to != far);
            let between = |flow: &Flow| flow.from == near && flow.to == far;
            let flows: Vec<u64> =
                self.flows.iter().filter(|(_, f)| between(f)).map(|(name, _)| *name).collect();
            flows.into_iter().for_each(|flow| drop(self.end_flow(flow)));
        }
        self.send(peer, Message::Input(Input::PeerDown(id(node))));
    }

    fn die(&mut self, node: usize) {
        for peer in self.nodes[node].peers.clone() {
            self.hang_up(node, peer);
        }
        self.nodes[node].alive = false;
        self.tracker.forget(&id(node).to_string());
        let reads: Vec<u64> =
            self.flows.iter().filter(|(_, flow)| flow.to == node).map(|(name, _)| *name).collect();
        reads.into_iter().for_each(|flow| drop(self.end_flow(flow)));
    }
}
