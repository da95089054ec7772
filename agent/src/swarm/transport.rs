//! How messages and pieces reach peers: the seam between the swarm's driver and the network.
//!
//! Owns connections, their greeting and their queues. It never decides whom to talk to, what to
//! ask or what to keep, and never looks into a piece. Every queue is bounded, every wait has a
//! deadline; a peer that breaks the rules is dropped and costs the others nothing. Everything ends
//! when the shutdown token it was started with is cancelled.

#[cfg(test)]
mod contract;
mod handle;
pub mod libp2p;
mod link;
pub mod memory;
mod session;
mod table;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use ::libp2p::{Multiaddr, PeerId};
use bytes::Bytes;
use longshore_proto::rpc::swarm as swarm_rpc;

/// Messages that wait for one peer; one more is [`SendError::Full`].
pub const CONTROL_QUEUE_MAX: usize = 256;
/// Payloads that wait for one peer, besides the one being written; one more is [`SendError::Full`].
pub const BULK_QUEUE_MAX: usize = 4;
/// Events that wait for the driver; a peer whose event finds no room is not read until there is.
pub const EVENTS_MAX: usize = 256;

/// Connections to peers, by their identity.
///
/// Nothing here blocks: what a call causes is told by [`TransportEvent`]s.
pub trait Transport: Send + Sync + Debug {
    /// Connects to a peer. Answered by exactly one [`TransportEvent::Up`] (also of a connection
    /// that the peer opened meanwhile) or [`TransportEvent::DialFailed`]; several dials of a peer
    /// share one answer, and the dial of a connected peer has none. While 1024 dials are
    /// unanswered, further ones are ignored.
    fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>);

    /// Ends the connection; what still waits for that peer is dropped, and
    /// [`TransportEvent::Down`] follows. A dial in progress is given up and answered.
    fn disconnect(&self, peer: PeerId);

    /// Queues a message; messages to a peer arrive in order, or the connection ends.
    fn send_control(
        &self,
        peer: PeerId,
        message: swarm_rpc::ControlMessage,
    ) -> Result<(), SendError>;

    /// Queues a payload in answer to the request `id`; [`TransportEvent::Sent`] follows.
    fn send_piece(&self, peer: PeerId, id: u64, payload: Bytes) -> Result<(), SendError>;

    /// Takes a payload out of the queue again unless its writing has begun.
    fn cancel_piece(&self, peer: PeerId, id: u64);

    /// Where peers reach this node: the address it was told to listen on, with the bound port.
    fn local_addr(&self) -> SocketAddr;
}

/// Why something was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer is not up: dial it or ask another.
    #[error("peer is not connected")]
    NotConnected,
    /// The peer reads slower than we write: try again later or ask another.
    #[error("queue to the peer is full")]
    Full,
    /// Over the wire format's bound for one message or payload: split it.
    #[error("message is over the bound of the wire format")]
    TooLarge,
}

/// What happened, in order for each peer: `Up`, then messages and payloads, then `Down`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// Both sides have greeted each other.
    Up {
        /// Who.
        peer: PeerId,
        /// The zone it says it is in.
        zone: String,
    },
    /// The connection has ended; what was queued for it and not [`TransportEvent::Sent`] is lost.
    Down {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// A [`Transport::dial`] came to nothing.
    DialFailed {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// A message arrived; never a `Hello`.
    Control {
        /// From whom.
        peer: PeerId,
        /// What it said.
        message: swarm_rpc::ControlMessage,
    },
    /// Payload bytes arrived, of whichever payload is on its way; summed over 64 KiB and more, and
    /// complete before the payload's [`TransportEvent::Piece`].
    Progress {
        /// From whom.
        peer: PeerId,
        /// How many since the last such event.
        bytes: u64,
    },
    /// A payload arrived whole; nobody has verified it.
    Piece {
        /// From whom.
        peer: PeerId,
        /// The request that it claims to answer.
        id: u64,
        /// The bytes.
        payload: Bytes,
    },
    /// A payload was handed to the connection whole.
    Sent {
        /// To whom.
        peer: PeerId,
        /// The request that it answered.
        id: u64,
        /// Payload bytes.
        bytes: u64,
    },
}

/// Why a connection ended or was never made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// We were told to end it.
    #[error("disconnected")]
    Disconnected,
    /// The peer ended it, or the network did.
    #[error("closed by the peer: {0}")]
    Closed(String),
    /// Nobody answered, or not as that peer, within the bound.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It is of another pool or speaks another version: asking again is no use for a long while.
    #[error("refused: {0}")]
    Refused(String),
    /// It broke the wire format.
    #[error("malformed: {0}")]
    Malformed(String),
    /// It accepted no bytes for the write timeout while something waited for it.
    #[error("accepted no bytes")]
    Stalled,
    /// A newer connection to the same peer took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// There are as many connections as this node may have.
    #[error("too many connections")]
    TooMany,
}

/// What a transport needs to know.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Peers of other pools are refused.
    pub pool: String,
    /// Told to peers.
    pub zone: String,
    /// For a TCP connection to be made; what a dead node costs.
    pub dial_timeout: Duration,
    /// For everything between the TCP connection and [`TransportEvent::Up`]: links can be slow.
    pub handshake_timeout: Duration,
    /// For a peer to accept any bytes while something waits for it.
    pub write_timeout: Duration,
    /// Connections up to which this node dials.
    pub connections_max: usize,
    /// Connections beyond those that it accepts, so that a full node can still be joined.
    pub connections_slack: usize,
}

impl TransportConfig {
    /// The usual bounds.
    pub fn new(listen: SocketAddr, pool: impl Into<String>, zone: impl Into<String>) -> Self {
        Self {
            listen,
            pool: pool.into(),
            zone: zone.into(),
            dial_timeout: Duration::from_millis(200),
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            connections_max: 40,
            connections_slack: 24,
        }
    }
}
