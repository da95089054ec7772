//! Peers that break the rules, on real sockets: each is dropped, and the node goes on.

use std::net::TcpListener;
use std::time::Duration;

use ::libp2p::Stream;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::swarm::{BulkHeader, ControlMessage, Hello, control_message::Message};
use tokio::time::{Instant, timeout};

use super::*;
use crate::swarm::transport::session::Streams;

const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    peer: PeerId,
    transport: Arc<dyn Transport>,
    events: mpsc::Receiver<TransportEvent>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn config() -> TransportConfig {
    let mut config = TransportConfig::new(([127, 0, 0, 1], 0).into(), "pool", "zone");
    config.dial_timeout = Duration::from_secs(5);
    config
}

async fn node(config: TransportConfig) -> Node {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let shutdown = CancellationToken::new();
    let (transport, events, task) = start(config, keypair, shutdown.clone()).await.unwrap();
    Node { peer, transport, events, shutdown, task }
}

impl Node {
    async fn event(&mut self) -> TransportEvent {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("the transport runs")
    }

    async fn down(&mut self) -> DownReason {
        match self.event().await {
            TransportEvent::Down { reason, .. } => reason,
            other => panic!("not down: {other:?}"),
        }
    }
}

/// A peer that says whatever a test wants; its libp2p is driven by a task of its own.
struct Raw {
    peer: PeerId,
    streams: Streams<Stream>,
    driver: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Raw {
    async fn connect(node: &Node) -> Self {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut swarm = swarm(&config(), &keypair, &tasks, &shutdown).unwrap();
        let to = DialOpts::peer_id(node.peer)
            .addresses(vec![multiaddr(node.transport.local_addr())])
            .build();
        swarm.dial(to).unwrap();
        let streams = loop {
            if let SwarmEvent::Behaviour(behaviour::BehaviourEvent::Connections(opened)) =
                swarm.select_next_some().await
            {
                break opened.opened.unwrap();
            }
        };
        let driver = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { peer, streams, driver }
    }

    /// One that is up.
    async fn greeted(node: &mut Node) -> Self {
        let mut raw = Self::connect(node).await;
        raw.say(&hello(SWARM_VERSION)).await;
        match node.event().await {
            TransportEvent::Up { peer, .. } => assert_eq!(peer, raw.peer),
            other => panic!("not up: {other:?}"),
        }
        raw
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.streams.control_out.write_all(bytes).await.unwrap();
        self.streams.control_out.flush().await.unwrap();
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.streams.bulk_out.write_all(bytes).await.unwrap();
        self.streams.bulk_out.flush().await.unwrap();
    }

    /// Waits until the node has hung up, and gives what it had said.
    async fn hung_up(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let read = self.streams.control_in.read_to_end(&mut said);
        let _ = timeout(PATIENCE, read).await.expect("the node hangs up in time");
        said
    }
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let mut frame = u32::try_from(message.encoded_len()).unwrap().to_be_bytes().to_vec();
    message.encode(&mut frame).unwrap();
    frame
}

fn hello(swarm_version: u32) -> Vec<u8> {
    let hello = Hello { swarm_version, pool: "pool".into(), zone: "raw".into() };
    framed(&ControlMessage { message: Some(Message::Hello(hello)) })
}

fn is_malformed(reason: &DownReason) -> bool {
    matches!(reason, DownReason::Malformed(_))
}

#[tokio::test]
async fn a_message_that_is_none_drops_the_peer_and_no_other() {
    let mut node = node(config()).await;
    let mut good = Raw::greeted(&mut node).await;
    for nonsense in [&[0, 0, 0, 2, 0xff, 0xff][..], &[0, 1, 0, 1], &[0xff; 64]] {
        let mut raw = Raw::greeted(&mut node).await;
        raw.say(nonsense).await;
        let reason = node.down().await;
        assert!(is_malformed(&reason), "{reason}");
        raw.hung_up().await;
    }
    good.send(&framed(&BulkHeader { id: 5, payload_bytes: 0 })).await;
    let event = node.event().await;
    let TransportEvent::Piece { peer, id: 5, payload } = event else { panic!("{event:?}") };
    assert!(peer == good.peer && payload.is_empty());
}

#[tokio::test]
async fn a_second_greeting_drops_the_peer() {
    let mut node = node(config()).await;
    let mut raw = Raw::greeted(&mut node).await;
    raw.say(&hello(SWARM_VERSION)).await;
    let reason = node.down().await;
    assert!(is_malformed(&reason), "{reason}");
}

#[tokio::test]
async fn a_payload_over_the_bound_drops_the_peer() {
    let mut node = node(config()).await;
    let mut raw = Raw::greeted(&mut node).await;
    raw.send(&framed(&BulkHeader { id: 1, payload_bytes: u32::MAX })).await;
    let reason = node.down().await;
    assert!(is_malformed(&reason), "{reason}");
}

#[tokio::test]
async fn a_long_bulk_header_drops_the_peer() {
    let mut node = node(config()).await;
    let mut raw = Raw::greeted(&mut node).await;
    raw.send(&[0, 0, 1, 1]).await;
    let reason = node.down().await;
    assert!(is_malformed(&reason), "{reason}");
}

#[tokio::test]
async fn a_payload_cut_short_is_never_told() {
    let mut node = node(config()).await;
    let mut raw = Raw::greeted(&mut node).await;
    raw.send(&framed(&BulkHeader { id: 1, payload_bytes: 100_000 })).await;
    raw.send(&[7; 99_999]).await;
    drop(raw);
    loop {
        match node.event().await {
            TransportEvent::Progress { .. } => {}
            TransportEvent::Down { reason: DownReason::Closed(_), .. } => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn whoever_greets_wrongly_or_not_at_all_never_comes_up() {
    let mut short = config();
    short.handshake_timeout = Duration::from_millis(500);
    let mut node = node(short).await;
    let mut silent = Raw::connect(&node).await;
    let mut rude = Raw::connect(&node).await;
    rude.say(&framed(&ControlMessage { message: Some(Message::Want(Default::default())) })).await;
    let mut newer = Raw::connect(&node).await;
    newer.say(&hello(SWARM_VERSION + 1)).await;
    for raw in [&mut silent, &mut rude, &mut newer] {
        raw.hung_up().await;
    }
    assert!(node.events.try_recv().is_err(), "none of them was up");
    Raw::greeted(&mut node).await;
}

#[tokio::test]
async fn messages_of_later_versions_are_skipped() {
    let mut node = node(config()).await;
    let mut raw = Raw::greeted(&mut node).await;
    raw.say(&[0, 0, 0, 3, 0xc2, 0x0c, 0]).await;
    let want = ControlMessage { message: Some(Message::Want(Default::default())) };
    raw.say(&framed(&want)).await;
    let event = node.event().await;
    let TransportEvent::Control { message, .. } = event else { panic!("{event:?}") };
    assert_eq!(message, want);
}

#[tokio::test]
async fn nobody_can_be_dialled_as_someone_else() {
    let (mut a, b) = (node(config()).await, node(config()).await);
    let other = PeerId::random();
    a.transport.dial(other, vec![multiaddr(b.transport.local_addr())]);
    let event = a.event().await;
    let TransportEvent::DialFailed { peer, reason } = event else { panic!("{event:?}") };
    assert!(peer == other && matches!(reason, DownReason::Unreachable(_)), "{reason}");
}

#[tokio::test]
async fn a_port_that_says_nothing_costs_the_handshake_timeout_and_one_answer() {
    let mut short = config();
    short.dial_timeout = Duration::from_millis(200);
    short.handshake_timeout = Duration::from_millis(500);
    let mut node = node(short).await;
    // The kernel accepts for it; nobody answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let (peer, addresses) = (PeerId::random(), vec![multiaddr(mute.local_addr().unwrap())]);
    for _ in 0..3 {
        node.transport.dial(peer, addresses.clone());
    }
    let event = node.event().await;
    assert!(matches!(event, TransportEvent::DialFailed { .. }), "{event:?}");
    assert!(timeout(Duration::from_secs(1), node.events.recv()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_machine_that_does_not_answer_costs_the_dial_timeout() {
    let mut config = config();
    config.dial_timeout = Duration::from_millis(200);
    config.handshake_timeout = PATIENCE;
    let mut node = node(config).await;
    // A full backlog drops further connections in silence, as a dead machine does.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _waiting = std::net::TcpStream::connect(addr).unwrap();

    let begun = Instant::now();
    node.transport.dial(PeerId::random(), vec![multiaddr(addr)]);
    let event = node.event().await;
    assert!(matches!(event, TransportEvent::DialFailed { .. }), "{event:?}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_taken_port_is_said_so() {
    let node = node(config()).await;
    let mut taken = config();
    taken.listen = node.transport.local_addr();
    let keypair = Keypair::generate_ed25519();
    let refused = start(taken, keypair, CancellationToken::new()).await;
    let Err(StartError::Listen { addr, .. }) = refused else { panic!("it shares the port") };
    assert_eq!(addr, node.transport.local_addr());
    node.shutdown.cancel();
    timeout(PATIENCE, node.task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn every_address_of_a_node_is_bound_when_none_is_named() {
    let mut everywhere = config();
    everywhere.listen = ([0, 0, 0, 0], 0).into();
    let node = node(everywhere).await;
    let addr = node.transport.local_addr();
    assert!(addr.ip().is_unspecified() && addr.port() != 0);
    let addr = SocketAddr::from(([127, 0, 0, 1], addr.port()));
    assert!(tokio::net::TcpStream::connect(addr).await.is_ok());
}
