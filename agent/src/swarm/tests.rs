//! Drivers against each other, with a store each and an origin in memory: once over a network in
//! memory, once over libp2p on loopback.

use std::path::Path;

use futures::TryStreamExt;
use longshore_proto::piece::PieceIndex;
use longshore_proto::wire::SignedPieceList;
use prometheus_client::registry::Registry;

use super::*;
use crate::origin::memory::{Faults, MemoryOrigin};
use crate::pull::ledger::{BlobLedger, Entries, OriginReason};
use crate::store::{BlobFailure, StoreConfig, StoreError, StoreMetrics, StoredBlob};

/// Nothing in here takes so long.
const SOON: Duration = Duration::from_secs(60);
const PIECE_BYTES: u64 = 64 * 1024;
const PIECES: u64 = 48;

/// What nodes talk over.
#[derive(Clone, Debug)]
enum Net {
    Memory(transport::memory::Network),
    Loopback,
}

struct World {
    net: Net,
    origin: MemoryOrigin,
    list: SignedPieceList,
    content: Bytes,
}

struct Node {
    swarm: Swarm,
    store: PieceStore,
    directory: tempfile::TempDir,
    metrics: SwarmMetrics,
    ledger: Arc<BlobLedger>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn repository() -> RepositoryName {
    "library/image".parse().unwrap()
}

impl World {
    fn new(net: Net) -> Self {
        let bytes = (PIECES * PIECE_BYTES - 1234) as u32;
        let content: Bytes =
            (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let origin = MemoryOrigin::default();
        let list = origin.put_blob(&repository(), content.clone(), PIECE_BYTES);
        Self { net, origin, list, content }
    }

    async fn node(&self) -> Node {
        self.node_with(TestFaults::default(), tempfile::tempdir().unwrap(), true).await
    }

    async fn node_with(
        &self,
        faults: TestFaults,
        directory: tempfile::TempDir,
        enabled: bool,
    ) -> Node {
        let identity = identity::Keypair::generate_ed25519();
        let own = identity.public().to_peer_id();
        let config = SwarmConfig {
            enabled,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            pool: "p".into(),
            zone: "z".into(),
            stall_timeout: Duration::from_secs(3),
        };
        let end = CancellationToken::new();
        let network = match &self.net {
            _ if !enabled => None,
            Net::Memory(network) => Some(network.join(own, config.transport(), end.clone())),
            Net::Loopback => {
                let mut transport = config.transport();
                transport.dial_timeout = Duration::from_secs(2);
                let started = transport::libp2p::start(transport, identity, end.clone());
                Some(started.await.unwrap())
            }
        };
        let addr = network.as_ref().map_or(config.listen, |(transport, ..)| transport.local_addr());
        let address = transport::libp2p::multiaddr(addr).to_string();
        let origin = Arc::new(self.origin.client(&own.to_string(), vec![address], "z"));
        let store = open(directory.path()).await;
        let metrics = SwarmMetrics::register(&mut Registry::default());
        let shutdown = CancellationToken::new();
        let rooms = (store.clone(), origin as Arc<dyn Origin>);
        let (swarm, task) =
            Swarm::run(config, own, network, end, rooms, metrics.clone(), faults, shutdown.clone());
        let ledger = Arc::new(BlobLedger::default());
        Node { swarm, store, directory, metrics, ledger, shutdown, task }
    }

    async fn nodes(&self, count: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(self.node().await);
        }
        nodes
    }

    /// A node that has the blob already.
    async fn seeder(&self, faults: TestFaults) -> Node {
        let seeder = self.node_with(faults, tempfile::tempdir().unwrap(), true).await;
        seeder.want(self);
        seeder.has_it(self).await;
        seeder
    }
}

/// The store, once the last write of a node that was stopped has let go of it.
async fn open(path: &Path) -> PieceStore {
    let config = StoreConfig { path: path.join("store"), bytes_max: 1 << 30 };
    let opened = async {
        loop {
            match PieceStore::open(&config, StoreMetrics::default()) {
                Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    };
    tokio::time::timeout(SOON, opened).await.expect("the store is free")
}

impl Node {
    fn want(&self, world: &World) -> Arc<StoredBlob> {
        let blob = self.store.open_blob(&world.list, &repository()).unwrap();
        let ledger = Arc::clone(&self.ledger);
        let want = Want { blob: Arc::clone(&blob), repository: repository(), order: 0, ledger };
        self.swarm.want(want);
        blob
    }

    fn stand_at(&self, world: &World, piece: Option<u32>) {
        self.swarm.cursor(world.list.list.digest(), 1, piece.map(PieceIndex));
    }

    fn blob(&self, world: &World) -> Arc<StoredBlob> {
        self.store.blob(&world.list.list.digest()).unwrap()
    }

    /// Waits until the blob is whole, and right.
    async fn has_it(&self, world: &World) {
        let blob = self.blob(world);
        let ended = self.ends(world, |blob| blob.is_whole()).await;
        assert!(ended, "the blob failed: {:?}", blob.failure());
        let mut content = Vec::new();
        for piece in 0..world.list.list.pieces() {
            content.extend(blob.read(PieceIndex(piece)).await.unwrap());
        }
        assert!(content == world.content, "the bytes are the origin's");
    }

    /// Waits until `done`, or until the blob fails: then false.
    async fn ends(&self, world: &World, done: impl Fn(&StoredBlob) -> bool) -> bool {
        let blob = self.blob(world);
        let mut changes = blob.changes();
        let end = async {
            while !done(&blob) && blob.failure().is_none() {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, end).await.expect("it ends in time");
        done(&blob)
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = async {
            while !condition(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap();
        self.directory
    }

    fn entries(&self) -> Entries {
        self.ledger.entries()
    }
}

async fn six_nodes_share_one_copy(world: World) {
    // Slow enough that no node is done before the others have met.
    world.origin.pace(Some(4 << 20));
    let nodes = world.nodes(6).await;
    nodes.iter().for_each(|node| drop(node.want(&world)));
    for node in &nodes {
        node.has_it(&world).await;
    }
    let size = world.content.len() as u64;
    assert!(world.origin.bytes_read() <= size * 13 / 10, "{} of {size}", world.origin.bytes_read());
    for node in &nodes {
        let entries = node.entries();
        assert_eq!(entries.origin_bytes() + entries.peers.bytes, size);
        assert_eq!(node.metrics.received_bytes.get(), entries.peers.bytes);
        assert_eq!(node.metrics.origin_bytes(), entries.origin_bytes());
        assert_eq!(node.metrics.bad_pieces.get(), 0);
    }
    for node in nodes {
        node.stop().await;
    }
}

async fn a_liar_is_refused_counted_and_never_believed(world: World) {
    let liar = world.seeder(TestFaults { corrupt_uploads: true, ..Default::default() }).await;
    let node = world.node().await;
    node.want(&world);
    node.has_it(&world).await;
    assert!(node.metrics.bad_pieces.get() >= 1);
    assert_eq!(node.entries().peers.pieces, 0, "nothing of the liar's was stored");
    assert_eq!(node.swarm.status().bad_pieces, node.metrics.bad_pieces.get());
    drop(liar);
}

async fn a_peer_that_stalls_is_survived(world: World) {
    let staller = world.seeder(TestFaults { stall_uploads: true, ..Default::default() }).await;
    let node = world.node().await;
    node.want(&world);
    node.stand_at(&world, Some(0));
    node.has_it(&world).await;
    assert!(node.metrics.stalled_requests.get() >= 1);
    drop(staller);
}

async fn peers_serve_while_the_origin_is_gone(world: World) {
    let seeder = world.seeder(TestFaults::default()).await;
    let node = world.node().await;
    node.until("it meets the seeder", |node| node.swarm.status().peers == 1).await;
    world.origin.break_with(Faults { down: true, ..Default::default() });
    let before = world.origin.bytes_read();
    node.want(&world);
    node.has_it(&world).await;
    assert_eq!(world.origin.bytes_read(), before);
    assert_eq!(node.entries().peers.bytes, world.content.len() as u64);
    seeder.stop().await;
}

async fn a_restart_fetches_no_verified_piece_again(world: World) {
    world.origin.pace(Some(2 << 20));
    let node = world.node().await;
    node.want(&world);
    assert!(node.ends(&world, |blob| blob.held().len() >= 5).await);
    let directory = node.stop().await;
    let node = world.node_with(TestFaults::default(), directory, true).await;
    let held = node.blob(&world).held_bytes();
    assert!(held >= 5 * PIECE_BYTES);
    node.want(&world);
    node.has_it(&world).await;
    assert_eq!(node.entries().origin_bytes(), world.content.len() as u64 - held);
}

async fn without_a_swarm_everything_comes_directly(world: World) {
    let node = world.node_with(TestFaults::default(), tempfile::tempdir().unwrap(), false).await;
    node.want(&world);
    node.has_it(&world).await;
    let direct = node.entries().origin[OriginReason::Direct as usize];
    assert_eq!(direct.bytes, world.content.len() as u64);
    assert!(node.swarm.addresses().is_empty() && !node.swarm.status().enabled);
    node.stop().await;
}

async fn without_a_tracker_the_store_is_read_and_peers_still_help(world: World) {
    world.origin.pace(Some(4 << 20));
    let nodes = world.nodes(2).await;
    for node in &nodes {
        node.until("they meet", |node| node.swarm.status().peers == 1).await;
    }
    world.origin.break_with(Faults { tracker_down: true, ..Default::default() });
    nodes.iter().for_each(|node| drop(node.want(&world)));
    for node in &nodes {
        node.has_it(&world).await;
        assert_eq!(node.entries().origin[OriginReason::Permit as usize].pieces, 0);
    }
    assert!(nodes.iter().map(|node| node.entries().peers.pieces).sum::<u64>() > 0);
}

async fn an_origin_that_lies_fails_the_blob(world: World) {
    world.origin.break_with(Faults { lying: true, ..Default::default() });
    let node = world.node().await;
    node.want(&world);
    assert!(!node.ends(&world, |blob| !blob.held().is_empty()).await);
    assert!(matches!(node.blob(&world).failure(), Some(BlobFailure::Denied(_))));
}

async fn a_blob_that_the_origin_has_not_fails_at_once(world: World) {
    let elsewhere = MemoryOrigin::default();
    let list = elsewhere.put_blob(&repository(), vec![9; 1_000_000], PIECE_BYTES);
    let world = World { list, ..world };
    let node = world.node().await;
    node.want(&world);
    assert!(!node.ends(&world, |blob| !blob.held().is_empty()).await);
    assert_eq!(node.blob(&world).failure(), Some(BlobFailure::NotFound));
}

async fn an_origin_that_stalls_does_not_hold_a_client_that_peers_can_serve(world: World) {
    let seeder = world.seeder(TestFaults::default()).await;
    world.origin.break_with(Faults { stalling: true, ..Default::default() });
    let node = world.node().await;
    node.want(&world);
    node.stand_at(&world, Some(0));
    node.has_it(&world).await;
    seeder.stop().await;
}

async fn who_leaves_is_forgotten_at_once(world: World) {
    let node = world.seeder(TestFaults::default()).await;
    let peer = node.swarm.peer_id().to_string();
    let known = || {
        let peers = world.origin.with_tracker(|tracker| tracker.peers(Duration::ZERO, ""));
        peers.iter().any(|known| known.peer_id == peer)
    };
    assert!(known());
    node.stop().await;
    assert!(!known());
}

async fn nobody_is_asked_for_a_plan_that_nobody_has(world: World) {
    let nodes = world.nodes(2).await;
    nodes[0].until("they meet", |node| node.swarm.status().peers == 1).await;
    let reference = Reference::Tag("latest".parse().unwrap());
    let told = nodes[0].swarm.ask_plan(&repository(), &reference).await;
    assert_eq!(told, None);
}

async fn a_plan_is_told_by_a_peer(world: World) {
    let nodes = world.nodes(2).await;
    nodes[0].until("they meet", |node| node.swarm.status().peers == 1).await;
    let item = rpc::PlanItem {
        repository: repository().to_string(),
        wanted: Some(rpc::plan_item::Wanted::BlobDigest(world.list.list.digest().to_string())),
        ..Default::default()
    };
    let request = rpc::PlanRequest { items: vec![item], ..Default::default() };
    let client = world.origin.client("nobody", vec![], "z");
    let events: Vec<_> = client.plan(request).await.unwrap().try_collect().await.unwrap();
    let digest = world.list.list.digest();
    nodes[1].store.put_plan(&repository(), &[digest], &events).unwrap();
    let told = nodes[0].swarm.ask_plan(&repository(), &Reference::Digest(digest)).await;
    let told = crate::store::decode_relayed(told.expect("the peer knows it")).unwrap();
    assert!(
        told.iter()
            .any(|event| { matches!(event.event, Some(rpc::plan_event::Event::Statement(_))) })
    );
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod in_memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let net = super::Net::Memory(super::transport::memory::Network::new());
                    super::$test(super::World::new(net)).await;
                }
            )*
        }
        mod over_loopback {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::World::new(super::Net::Loopback)).await;
                }
            )*
        }
    };
}

suite!(
    six_nodes_share_one_copy,
    a_liar_is_refused_counted_and_never_believed,
    a_peer_that_stalls_is_survived,
    peers_serve_while_the_origin_is_gone,
    a_restart_fetches_no_verified_piece_again,
    without_a_swarm_everything_comes_directly,
    without_a_tracker_the_store_is_read_and_peers_still_help,
    an_origin_that_lies_fails_the_blob,
    a_blob_that_the_origin_has_not_fails_at_once,
    an_origin_that_stalls_does_not_hold_a_client_that_peers_can_serve,
    who_leaves_is_forgotten_at_once,
    nobody_is_asked_for_a_plan_that_nobody_has,
    a_plan_is_told_by_a_peer,
);
