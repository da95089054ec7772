//! What every transport must do, a case each; `contract` runs them on both.

use std::time::Duration;

use bytes::Bytes;
use longshore_proto::rpc::swarm::{ControlMessage, Want, control_message::Message};

use super::super::memory::Network;
use super::super::{CONTROL_QUEUE_MAX, DownReason, SendError, TransportEvent as Event};
use super::node::{Fleet, Node, config, message, payload};

const MIB: usize = 1024 * 1024;

macro_rules! contract {
    ($($case:ident)*) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $case() {
                super::$case(Fleet::Memory(Network::new())).await;
            })*
        }
        mod libp2p {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(Fleet::Libp2p).await;
            })*
        }
    };
}

contract! {
    a_dial_brings_both_sides_up_with_their_zones
    a_node_of_another_pool_is_refused_by_both
    messages_arrive_in_order
    payloads_of_every_size_arrive_intact
    forty_peers_are_served_at_once
    a_disconnect_ends_both_sides
    simultaneous_dials_end_in_one_connection
    a_dial_of_nobody_fails_once
    a_dial_that_is_given_up_is_answered
    a_dial_of_itself_or_beyond_the_bound_fails
    nothing_is_queued_for_strangers_or_over_the_bounds
    queues_fill_while_the_reader_does_not_read_and_lose_nothing
    a_cancelled_payload_is_not_sent
    large_transfers_both_ways_do_not_deadlock
    a_message_overtakes_waiting_payloads
    a_peer_that_accepts_nothing_goes_down_and_stalls_nobody_else
    a_connection_outlives_silence
    shutdown_ends_everything
}

async fn a_dial_brings_both_sides_up_with_their_zones(fleet: Fleet) {
    let mut other = config();
    other.zone = "elsewhere".into();
    let (mut a, mut b) = (fleet.node().await, fleet.node_with(other).await);
    a.dial(&b);
    assert_eq!(a.up().await, (b.peer, "elsewhere".into()));
    assert_eq!(b.up().await, (a.peer, "zone".into()));
    a.dial(&b);
    assert!(a.event_soon().await.is_none(), "the dial of a connected peer has no answer");
}

async fn a_node_of_another_pool_is_refused_by_both(fleet: Fleet) {
    let mut other = config();
    other.pool = "other".into();
    let (mut a, mut b) = (fleet.node().await, fleet.node_with(other).await);
    let refused = |reason| matches!(reason, DownReason::Refused(_));
    a.dial(&b);
    let (peer, reason) = a.dial_failed().await;
    assert!(peer == b.peer && refused(reason));
    b.dial(&a);
    let (peer, reason) = b.dial_failed().await;
    assert!(peer == a.peer && refused(reason));
    let sent = a.transport.send_control(b.peer, message(1));
    assert_eq!(sent, Err(SendError::NotConnected));
}

async fn messages_arrive_in_order(fleet: Fleet) {
    let (a, mut b) = fleet.pair().await;
    let (to, numbers) = (b.peer, 4 * CONTROL_QUEUE_MAX as u64);
    let send = async {
        for number in 0..numbers {
            a.send_patiently(to, number).await;
        }
    };
    let receive = async {
        for number in 0..numbers {
            assert_eq!(b.message().await, number);
        }
    };
    tokio::join!(send, receive);
}

async fn payloads_of_every_size_arrive_intact(fleet: Fleet) {
    let (mut a, mut b) = fleet.pair().await;
    for bytes in [1, 2, 255, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, MIB, 4 * MIB] {
        let (id, sent) = (bytes as u64, payload(bytes, 7));
        a.transport.send_piece(b.peer, id, sent.clone()).unwrap();
        let (peer, got_id, got) = b.piece().await;
        assert!(peer == a.peer && got_id == id && got == sent, "{bytes} bytes");
        assert_eq!(a.sent().await, (b.peer, id, id));
    }
}

async fn forty_peers_are_served_at_once(fleet: Fleet) {
    let mut hub = fleet.node().await;
    let mut peers = Vec::new();
    for number in 0..40 {
        let mut peer = fleet.node().await;
        peer.dial(&hub);
        assert_eq!(peer.up().await.0, hub.peer);
        assert_eq!(hub.up().await.0, peer.peer);
        peers.push((number, peer));
    }
    for (number, peer) in &peers {
        hub.transport.send_piece(peer.peer, *number, payload(MIB / 4, *number)).unwrap();
    }
    let hub_peer = hub.peer;
    let received = peers.iter_mut().map(async |(number, peer)| {
        let (from, id, got) = peer.piece().await;
        assert!(from == hub_peer && id == *number && got == payload(MIB / 4, *number));
    });
    let sent = async {
        for _ in 0..40 {
            hub.sent().await;
        }
    };
    tokio::join!(futures::future::join_all(received), sent);
}

async fn a_disconnect_ends_both_sides(fleet: Fleet) {
    let (mut a, mut b) = fleet.pair().await;
    a.transport.disconnect(b.peer);
    assert_eq!(a.down().await, (b.peer, DownReason::Disconnected));
    let (peer, reason) = b.down().await;
    assert!(peer == a.peer && matches!(reason, DownReason::Closed(_)), "{reason}");
    let sent = b.transport.send_control(a.peer, message(1));
    assert_eq!(sent, Err(SendError::NotConnected));
    b.connect(&mut a).await;
    b.send_patiently(a.peer, 5).await;
    assert_eq!(a.message().await, 5);
}

async fn simultaneous_dials_end_in_one_connection(fleet: Fleet) {
    for _ in 0..8 {
        let [mut a, mut b] = fleet.nodes().await;
        a.dial(&b);
        b.dial(&a);
        tokio::join!(a.up(), b.up());
        a.send_patiently(b.peer, 1).await;
        b.send_patiently(a.peer, 2).await;
        assert_eq!((a.message().await, b.message().await), (2, 1));
        let later = tokio::join!(a.event_soon(), b.event_soon());
        assert!(matches!(later, (None, None)), "no second connection shows: {later:?}");
        a.transport.disconnect(b.peer);
        tokio::join!(a.down(), b.down());
    }
}

async fn a_dial_of_nobody_fails_once(fleet: Fleet) {
    let [mut a, gone] = fleet.nodes().await;
    let (peer, addresses) = (gone.peer, gone.addresses.clone());
    gone.leave().await;
    a.transport.dial(peer, addresses);
    let (failed, reason) = a.dial_failed().await;
    assert!(failed == peer && matches!(reason, DownReason::Unreachable(_)), "{reason}");
    assert!(a.event_soon().await.is_none());
}

async fn a_dial_that_is_given_up_is_answered(fleet: Fleet) {
    let [mut a, b] = fleet.nodes().await;
    a.dial(&b);
    a.transport.disconnect(b.peer);
    match a.event().await {
        Event::DialFailed { peer, reason } => {
            assert_eq!((peer, reason), (b.peer, DownReason::Disconnected));
        }
        // It was quicker.
        Event::Up { peer, .. } => {
            assert_eq!(a.down().await, (peer, DownReason::Disconnected));
        }
        other => panic!("no answer: {other:?}"),
    }
    assert!(a.event_soon().await.is_none());
}

async fn a_dial_of_itself_or_beyond_the_bound_fails(fleet: Fleet) {
    let mut small = config();
    small.connections_max = 1;
    let mut a = fleet.node_with(small).await;
    let [mut b, c] = fleet.nodes().await;
    a.transport.dial(a.peer, a.addresses.clone());
    assert_eq!(a.dial_failed().await.0, a.peer);
    a.connect(&mut b).await;
    a.dial(&c);
    assert_eq!(a.dial_failed().await, (c.peer, DownReason::TooMany));
    let mut c = c;
    c.connect(&mut a).await;
}

async fn nothing_is_queued_for_strangers_or_over_the_bounds(fleet: Fleet) {
    let (a, b) = fleet.pair().await;
    let stranger = fleet.node().await.peer;
    let digests = vec!["x".repeat(64 * 1024)];
    let long = ControlMessage { message: Some(Message::Want(Want { digests })) };
    let large = Bytes::from(vec![0; 33 * MIB]);
    let transport = &a.transport;
    let unknown = Err(SendError::NotConnected);
    assert_eq!(transport.send_control(stranger, message(1)), unknown);
    assert_eq!(transport.send_piece(stranger, 1, payload(1, 1)), unknown);
    assert_eq!(transport.send_control(b.peer, long), Err(SendError::TooLarge));
    assert_eq!(transport.send_piece(b.peer, 1, large), Err(SendError::TooLarge));
}

/// Sends payloads until nothing moves any more; returns how many were taken.
async fn fill(a: &mut Node, b: &Node) -> u64 {
    let mut taken = 0;
    loop {
        match a.transport.send_piece(b.peer, taken, payload(MIB / 8, taken)) {
            Ok(()) => taken += 1,
            Err(SendError::Full) => match a.event_soon().await {
                Some(Event::Sent { .. }) => {}
                Some(other) => panic!("not sent: {other:?}"),
                None => return taken,
            },
            Err(other) => panic!("{other}"),
        }
    }
}

async fn queues_fill_while_the_reader_does_not_read_and_lose_nothing(fleet: Fleet) {
    let (mut a, mut b) = fleet.pair().await;
    let taken = fill(&mut a, &b).await;
    let full = a.transport.send_piece(b.peer, taken, payload(1, 1));
    assert_eq!(full, Err(SendError::Full));
    let mut messages = 0;
    while a.transport.send_control(b.peer, message(messages)).is_ok() {
        messages += 1;
    }
    assert!(messages >= CONTROL_QUEUE_MAX as u64);

    let (mut pieces, mut heard) = (0, 0);
    while pieces < taken || heard < messages {
        match b.event().await {
            Event::Piece { id, payload: got, .. } => {
                assert!(id == pieces && got == payload(MIB / 8, id));
                pieces += 1;
            }
            Event::Control { message: got, .. } => {
                assert_eq!(got, message(heard));
                heard += 1;
            }
            Event::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn a_cancelled_payload_is_not_sent(fleet: Fleet) {
    let (mut a, mut b) = fleet.pair().await;
    let taken = fill(&mut a, &b).await;
    a.transport.cancel_piece(b.peer, taken - 1);
    a.transport.cancel_piece(b.peer, taken + 7);
    a.transport.send_piece(b.peer, 9999, payload(1, 1)).expect("there is room again");
    let mut ids = Vec::new();
    while ids.last() != Some(&9999) {
        ids.push(b.piece().await.1);
    }
    let expected: Vec<_> = (0..taken - 1).chain([9999]).collect();
    assert_eq!(ids, expected);
}

async fn large_transfers_both_ways_do_not_deadlock(fleet: Fleet) {
    const PIECES: u64 = 48;
    let (mut a, mut b) = fleet.pair().await;
    let sent = payload(MIB, 3);
    let (peer_a, peer_b) = (a.peer, b.peer);
    let exchange = async |node: &mut Node, other| {
        let (mut next, mut got) = (0, 0);
        while next < PIECES || got < PIECES {
            while next < PIECES && node.transport.send_piece(other, next, sent.clone()).is_ok() {
                next += 1;
            }
            match node.event().await {
                Event::Piece { id, payload, .. } => {
                    assert!(id == got && payload == sent);
                    got += 1;
                }
                Event::Progress { .. } | Event::Sent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(exchange(&mut a, peer_b), exchange(&mut b, peer_a));
}

async fn a_message_overtakes_waiting_payloads(fleet: Fleet) {
    let (a, mut b) = fleet.pair().await;
    for id in 0..4 {
        a.transport.send_piece(b.peer, id, payload(8 * MIB, id)).unwrap();
    }
    a.transport.send_control(b.peer, message(1)).unwrap();
    let mut pieces = 0;
    loop {
        match b.event().await {
            Event::Piece { .. } => pieces += 1,
            Event::Control { .. } => break,
            _ => {}
        }
    }
    assert!(pieces < 4, "the message came after all payloads");
}

async fn a_peer_that_accepts_nothing_goes_down_and_stalls_nobody_else(fleet: Fleet) {
    let mut impatient = config();
    impatient.write_timeout = Duration::from_millis(1500);
    let mut a = fleet.node_with(impatient).await;
    let [mut deaf, mut b] = fleet.nodes().await;
    a.connect(&mut deaf).await;
    a.connect(&mut b).await;
    let (stuck, pace) = (payload(MIB / 8, 1), payload(MIB / 8, 2));
    let (mut got, mut reason) = (0, None);
    while reason.is_none() || got < 20 {
        // As much as is taken, to the deaf one and to the other.
        let _ = a.transport.send_piece(deaf.peer, 1, stuck.clone());
        let _ = a.transport.send_piece(b.peer, 2, pace.clone());
        tokio::select! {
            event = a.event() => if let Event::Down { peer, reason: why } = event {
                assert_eq!(peer, deaf.peer);
                reason = Some(why);
            },
            event = b.event() => if let Event::Piece { payload: piece, .. } = event {
                assert_eq!(piece, pace);
                got += 1;
            },
        }
    }
    assert_eq!(reason, Some(DownReason::Stalled));
}

async fn a_connection_outlives_silence(fleet: Fleet) {
    let mut hasty = config();
    hasty.handshake_timeout = Duration::from_millis(500);
    hasty.write_timeout = Duration::from_millis(500);
    let (mut a, mut b) = (fleet.node_with(hasty.clone()).await, fleet.node_with(hasty).await);
    a.connect(&mut b).await;
    let silence = tokio::join!(a.event_soon(), b.event_soon());
    assert!(matches!(silence, (None, None)), "{silence:?}");
    a.send_patiently(b.peer, 1).await;
    assert_eq!(b.message().await, 1);
}

async fn shutdown_ends_everything(fleet: Fleet) {
    let (mut a, b) = fleet.pair().await;
    let [mut c, d] = fleet.nodes().await;
    a.connect(&mut c).await;
    // Also with a driver that reads nothing and payloads on their way.
    while a.transport.send_piece(b.peer, 1, payload(MIB, 1)).is_ok() {}
    a.dial(&d);
    let peer = a.peer;
    a.leave().await;
    let (down, reason) = c.down().await;
    assert!(down == peer && matches!(reason, DownReason::Closed(_)), "{reason}");
    b.leave().await;
}
