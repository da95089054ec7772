//! The swarm: where each piece of a blob comes from.
//!
//! Owns the decision ([`engine`]), the connections between nodes ([`transport`]) and the driver
//! that joins them to the store and the origin. The pull side wants blobs, moves cursors and reads
//! the store; it never learns where a piece came from but by the ledger. Ends with the token that
//! it was started with, and has then joined all of its tasks.

mod book;
mod driver;
pub mod engine;
mod inbox;
mod metrics;
#[cfg(test)]
mod tests;
pub mod transport;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::libp2p::{PeerId, identity};
use async_trait::async_trait;
use bytes::Bytes;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, Reference, RepositoryName};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::driver::{Driver, Parts, TestFaults};
use self::engine::{Engine, Limits};
use self::inbox::{Inbox, PlanQuestion};
pub use self::metrics::SwarmMetrics;
use self::transport::{Transport, TransportConfig, TransportEvent};
use crate::origin::Origin;
use crate::pull::fetcher::{Fetcher, Want};
use crate::store::PieceStore;

/// A peer that knows a plan has told it by then.
const PLAN_TIMEOUT: Duration = Duration::from_secs(3);

/// The swarm's settings.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Off: every piece comes from the origin, by the same code.
    pub enabled: bool,
    /// Where peers reach this node; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What peers are told, where it differs.
    pub advertise: Option<SocketAddr>,
    /// Peers of another pool are refused.
    pub pool: String,
    /// Peers of the same zone are asked first.
    pub zone: String,
    /// A client that waits at a piece for so long without bytes gets extra origin bytes.
    pub stall_timeout: Duration,
}

/// A handle of the swarm; clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Swarm {
    inbox: Arc<Inbox>,
    standing: Arc<Mutex<Standing>>,
    metrics: SwarmMetrics,
    enabled: bool,
    local_addr: SocketAddr,
    advertise: Option<SocketAddr>,
    peer_id: PeerId,
}

/// How the swarm stands, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it exchanges pieces with peers.
    pub enabled: bool,
    /// Connected peers.
    pub peers: usize,
    /// Of those, in this node's zone.
    pub same_zone_peers: usize,
    /// Wrong pieces from peers since the start.
    pub bad_pieces: u64,
    /// Requests to peers that sent nothing.
    pub stalled_requests: u64,
    /// Verified payload from peers.
    pub peer_bytes: u64,
    /// Verified bytes from the origin that the swarm read.
    pub origin_bytes: u64,
    /// Payload sent to peers.
    pub sent_bytes: u64,
    /// Bytes that arrived for nothing.
    pub wasted_bytes: u64,
}

/// Why the swarm does not start.
#[derive(Debug, thiserror::Error)]
pub enum SwarmError {
    /// The network can not be had.
    #[error(transparent)]
    Transport(#[from] transport::libp2p::StartError),
}

/// What the driver tells of itself.
#[derive(Debug, Default)]
struct Standing {
    /// Connected peers, and whether they are of the same zone.
    peers: BTreeMap<PeerId, bool>,
    bad_pieces: u64,
    stalled_requests: u64,
}

/// A network to run on: how to talk, what happens, and the task to join.
type Network = (Arc<dyn Transport>, mpsc::Receiver<TransportEvent>, JoinHandle<()>);

impl SwarmConfig {
    fn limits(&self) -> Limits {
        Limits { cursor_stall: self.stall_timeout, direct: !self.enabled, ..Limits::default() }
    }

    fn transport(&self) -> TransportConfig {
        let mut config = TransportConfig::new(self.listen, self.pool.clone(), self.zone.clone());
        config.connections_max = self.limits().peers;
        config
    }
}

impl Swarm {
    /// Starts the swarm as `identity`. The task ends soon after `shutdown` is cancelled.
    pub async fn start(
        config: SwarmConfig,
        identity: identity::Keypair,
        store: PieceStore,
        origin: Arc<dyn Origin>,
        metrics: SwarmMetrics,
        shutdown: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), SwarmError> {
        let own = identity.public().to_peer_id();
        let end = CancellationToken::new();
        let network = if config.enabled {
            Some(transport::libp2p::start(config.transport(), identity, end.clone()).await?)
        } else {
            None
        };
        let faults = TestFaults::from_env();
        Ok(Self::run(config, own, network, end, (store, origin), metrics, faults, shutdown))
    }

    /// `network_end` ends the network: after the driver, which still says farewell.
    #[expect(clippy::too_many_arguments, reason = "the one place where the parts come together")]
    fn run(
        config: SwarmConfig,
        own: PeerId,
        network: Option<Network>,
        network_end: CancellationToken,
        (store, origin): (PieceStore, Arc<dyn Origin>),
        metrics: SwarmMetrics,
        faults: TestFaults,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let inbox = Arc::new(Inbox::default());
        let standing = Arc::new(Mutex::new(Standing::default()));
        let (transport, events, task) = match network {
            Some((transport, events, task)) => (Some(transport), Some(events), Some(task)),
            None => (None, None, None),
        };
        let local_addr = transport.as_ref().map_or(config.listen, |it| it.local_addr());
        let swarm = Self {
            inbox: Arc::clone(&inbox),
            standing: Arc::clone(&standing),
            metrics: metrics.clone(),
            enabled: config.enabled,
            local_addr,
            advertise: config.advertise,
            peer_id: own,
        };
        let engine = Engine::new(config.limits(), rand::random());
        let parts = Parts {
            config,
            engine,
            own,
            transport,
            store,
            origin,
            metrics,
            inbox,
            standing,
            faults,
        };
        let (driver, answers) = Driver::new(parts);
        let (silent, nothing) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            driver.run(events.unwrap_or(nothing), answers, shutdown).await;
            drop(silent);
            network_end.cancel();
            if let Some(Err(error)) = futures::future::OptionFuture::from(task).await {
                tracing::error!(%error, "the network ended early");
            }
        });
        (swarm, task)
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What a join tells: where peers reach this node, in multiaddrs. An unspecified address
    /// stands for the one that the origin sees. Empty when the swarm is off.
    pub fn addresses(&self) -> Vec<String> {
        let addr = self.advertise.unwrap_or(self.local_addr);
        self.enabled.then(|| transport::libp2p::multiaddr(addr).to_string()).into_iter().collect()
    }

    /// Who this node is.
    pub const fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// How it stands.
    pub fn status(&self) -> SwarmStatus {
        let standing = self.standing.lock().expect("nothing panics while it holds it");
        SwarmStatus {
            address: self.local_addr,
            enabled: self.enabled,
            peers: standing.peers.len(),
            same_zone_peers: standing.peers.values().filter(|same| **same).count(),
            bad_pieces: standing.bad_pieces,
            stalled_requests: standing.stalled_requests,
            peer_bytes: self.metrics.received_bytes.get(),
            origin_bytes: self.metrics.origin_bytes(),
            sent_bytes: self.metrics.sent_bytes.get(),
            wasted_bytes: self.metrics.wasted_bytes.get(),
        }
    }
}

#[async_trait]
impl Fetcher for Swarm {
    fn want(&self, want: Want) {
        let digest = want.blob.digest();
        self.inbox.write(|letters| drop(letters.wants.insert(digest, Some(want))));
    }

    fn unwant(&self, digest: Digest) {
        self.inbox.write(|letters| drop(letters.wants.insert(digest, None)));
    }

    fn cursor(&self, digest: Digest, client: u64, piece: Option<PieceIndex>) {
        self.inbox.write(|letters| {
            letters.cursors.insert((digest, client), piece);
        });
    }

    fn meet(&self, peers: Vec<rpc::Peer>) {
        self.inbox.write(|letters| letters.meet(peers));
    }

    fn use_permits(&self, permits: Vec<rpc::PiecePermit>) {
        self.inbox.write(|letters| letters.use_permits(permits));
    }

    async fn ask_plan(&self, repository: &RepositoryName, reference: &Reference) -> Option<Bytes> {
        let (answer, told) = oneshot::channel();
        let (repository, reference) = (repository.clone(), reference.clone());
        let question = PlanQuestion { repository, reference, answer };
        self.inbox.write(|letters| letters.ask_plan(question));
        tokio::time::timeout(PLAN_TIMEOUT, told).await.ok()?.ok()
    }
}
