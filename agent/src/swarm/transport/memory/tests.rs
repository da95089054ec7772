//! The faults that a test can order, on a paused clock.

use longshore_proto::rpc::swarm::{ControlMessage, Want, control_message::Message};
use tokio::time::Instant;

use super::*;

struct Node {
    peer: PeerId,
    transport: Arc<dyn Transport>,
    events: mpsc::Receiver<TransportEvent>,
    _task: JoinHandle<()>,
}

fn node(network: &Network) -> Node {
    let peer = PeerId::random();
    let config = TransportConfig::new(([127, 0, 0, 1], 0).into(), "pool", "zone");
    let (transport, events, _task) = network.join(peer, config, CancellationToken::new());
    Node { peer, transport, events, _task }
}

async fn pair(network: &Network) -> (Node, Node) {
    let (mut a, mut b) = (node(network), node(network));
    a.transport.dial(b.peer, vec![]);
    assert!(matches!(a.event().await, TransportEvent::Up { .. }));
    assert!(matches!(b.event().await, TransportEvent::Up { .. }));
    (a, b)
}

impl Node {
    async fn event(&mut self) -> TransportEvent {
        loop {
            match self.events.recv().await.unwrap() {
                TransportEvent::Progress { .. } | TransportEvent::Sent { .. } => {}
                event => return event,
            }
        }
    }
}

fn want() -> ControlMessage {
    ControlMessage { message: Some(Message::Want(Want::default())) }
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_connections_and_dials_until_it_is_mended() {
    let network = Network::new();
    let (mut a, mut b) = pair(&network).await;
    network.cut(a.peer, b.peer);
    for node in [&mut a, &mut b] {
        let event = node.event().await;
        let TransportEvent::Down { reason, .. } = event else { panic!("{event:?}") };
        assert!(matches!(reason, DownReason::Closed(_)), "{reason}");
    }
    b.transport.dial(a.peer, vec![]);
    assert!(matches!(b.event().await, TransportEvent::DialFailed { .. }));
    network.mend(a.peer, b.peer);
    b.transport.dial(a.peer, vec![]);
    assert!(matches!(b.event().await, TransportEvent::Up { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_peer_goes_down_once_the_write_timeout_has_passed() {
    let network = Network::new();
    let (mut a, b) = pair(&network).await;
    network.stall(a.peer, b.peer);
    let begun = Instant::now();
    a.transport.send_piece(b.peer, 1, Bytes::from(vec![0; 1 << 20])).unwrap();
    let event = a.event().await;
    let TransportEvent::Down { reason, .. } = event else { panic!("{event:?}") };
    assert_eq!(reason, DownReason::Stalled);
    assert!(begun.elapsed() >= Duration::from_secs(10));
    assert!(begun.elapsed() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_stall_that_is_mended_loses_nothing() {
    let network = Network::new();
    let (a, mut b) = pair(&network).await;
    network.stall(a.peer, b.peer);
    a.transport.send_control(b.peer, want()).unwrap();
    let silence = tokio::time::timeout(Duration::from_secs(5), b.events.recv()).await;
    assert!(silence.is_err());
    network.mend(a.peer, b.peer);
    assert!(matches!(b.event().await, TransportEvent::Control { .. }));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_late_by_the_delay() {
    let network = Network::new();
    let (a, mut b) = pair(&network).await;
    network.delay(Duration::from_millis(40));
    let begun = Instant::now();
    a.transport.send_control(b.peer, want()).unwrap();
    b.event().await;
    // The paused clock moves in whole milliseconds.
    let late = begun.elapsed().as_millis();
    assert!((40..=42).contains(&late), "{late} ms");
}

#[tokio::test(start_paused = true)]
async fn payloads_are_corrupted_in_the_direction_asked_for() {
    let network = Network::new();
    let (mut a, mut b) = pair(&network).await;
    network.corrupt(a.peer, b.peer, true);
    for (from, to, arrives) in [(0, 1, [1, 2, 2]), (1, 0, [1, 2, 3])] {
        let peers = [a.peer, b.peer];
        let nodes = [&mut a, &mut b];
        nodes[from].transport.send_piece(peers[to], 1, Bytes::from_static(&[1, 2, 3])).unwrap();
        let event = nodes[to].events.recv().await;
        assert!(matches!(event, Some(TransportEvent::Progress { bytes: 3, .. })));
        let event = nodes[to].events.recv().await;
        let Some(TransportEvent::Piece { payload, .. }) = event else { panic!("{event:?}") };
        assert_eq!(payload, arrives.as_slice());
        if let Some(TransportEvent::Sent { .. }) = nodes[from].events.recv().await {}
    }
}
