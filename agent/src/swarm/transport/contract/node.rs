//! Nodes for the contract: one way to make and to ask them, whatever carries their bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::libp2p::identity::Keypair;
use ::libp2p::{Multiaddr, PeerId};
use bytes::Bytes;
use longshore_proto::rpc::swarm::{Busy, ControlMessage, control_message::Message};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::libp2p::{multiaddr, start};
use super::super::memory::Network;
use super::super::{DownReason, SendError, Transport, TransportConfig, TransportEvent as Event};

/// Much longer than anything here takes; whoever waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the nodes of one test are connected by.
pub(super) enum Fleet {
    Memory(Network),
    Libp2p,
}

impl Fleet {
    pub(super) async fn node(&self) -> Node {
        self.node_with(config()).await
    }

    pub(super) async fn nodes<const N: usize>(&self) -> [Node; N] {
        let nodes = futures::future::join_all((0..N).map(|_| self.node())).await;
        nodes.try_into().expect("as many as asked for")
    }

    pub(super) async fn node_with(&self, config: TransportConfig) -> Node {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let shutdown = CancellationToken::new();
        let (transport, events, task) = match self {
            Self::Memory(network) => network.join(peer, config, shutdown.clone()),
            Self::Libp2p => start(config, keypair, shutdown.clone()).await.unwrap(),
        };
        let addresses = vec![multiaddr(transport.local_addr())];
        Node { peer, transport, events, addresses, shutdown, task }
    }

    /// Two nodes that are up.
    pub(super) async fn pair(&self) -> (Node, Node) {
        let [mut a, mut b] = self.nodes().await;
        a.connect(&mut b).await;
        (a, b)
    }
}

pub(super) fn config() -> TransportConfig {
    let mut config = TransportConfig::new(listen(), "pool", "zone");
    // A test machine under load is slower than a fleet's network.
    config.dial_timeout = Duration::from_secs(5);
    config
}

pub(super) fn listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) peer: PeerId,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) events: Receiver<Event>,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl Node {
    pub(super) fn dial(&self, other: &Self) {
        self.transport.dial(other.peer, other.addresses.clone());
    }

    pub(super) async fn connect(&mut self, other: &mut Self) {
        self.dial(other);
        assert_eq!(self.up().await, (other.peer, "zone".into()));
        assert_eq!(other.up().await, (self.peer, "zone".into()));
    }

    pub(super) async fn event(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        event.expect("the transport still runs")
    }

    /// The next event but progress, if one comes within a moment.
    pub(super) async fn event_soon(&mut self) -> Option<Event> {
        loop {
            match timeout(Duration::from_millis(700), self.events.recv()).await {
                Ok(Some(Event::Progress { .. })) => {}
                Ok(event) => return event,
                Err(_) => return None,
            }
        }
    }

    pub(super) async fn up(&mut self) -> (PeerId, String) {
        match self.event().await {
            Event::Up { peer, zone } => (peer, zone),
            other => panic!("not up: {other:?}"),
        }
    }

    pub(super) async fn down(&mut self) -> (PeerId, DownReason) {
        match self.event().await {
            Event::Down { peer, reason } => (peer, reason),
            other => panic!("not down: {other:?}"),
        }
    }

    pub(super) async fn dial_failed(&mut self) -> (PeerId, DownReason) {
        match self.event().await {
            Event::DialFailed { peer, reason } => (peer, reason),
            other => panic!("dial has not failed: {other:?}"),
        }
    }

    /// The number in the next message.
    pub(super) async fn message(&mut self) -> u64 {
        match self.event().await {
            Event::Control {
                message: ControlMessage { message: Some(Message::Busy(busy)) },
                ..
            } => busy.id,
            other => panic!("no message: {other:?}"),
        }
    }

    /// The next payload; progress before it and what was sent meanwhile is checked and left out.
    pub(super) async fn piece(&mut self) -> (PeerId, u64, Bytes) {
        let mut progress = 0;
        loop {
            match self.event().await {
                Event::Progress { bytes, .. } => progress += bytes,
                Event::Sent { .. } => {}
                Event::Piece { peer, id, payload } => {
                    assert_eq!(progress, payload.len() as u64, "progress is complete");
                    return (peer, id, payload);
                }
                other => panic!("no piece: {other:?}"),
            }
        }
    }

    pub(super) async fn sent(&mut self) -> (PeerId, u64, u64) {
        loop {
            match self.event().await {
                Event::Sent { peer, id, bytes } => return (peer, id, bytes),
                Event::Progress { .. } | Event::Piece { .. } => {}
                other => panic!("not sent: {other:?}"),
            }
        }
    }

    /// Sends, and while the queue is full waits for it to move.
    pub(super) async fn send_patiently(&self, to: PeerId, number: u64) {
        let tried = timeout(PATIENCE, async {
            while self.transport.send_control(to, message(number)) == Err(SendError::Full) {
                tokio::task::yield_now().await;
            }
        });
        tried.await.expect("the queue moves");
    }

    pub(super) async fn leave(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the transport ends").expect("without panic");
    }
}

pub(super) fn message(number: u64) -> ControlMessage {
    ControlMessage { message: Some(Message::Busy(Busy { id: number })) }
}

/// Bytes of which no two equal runs are near each other.
pub(super) fn payload(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}
