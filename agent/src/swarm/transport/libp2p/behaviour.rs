//! What the libp2p swarm does with connections: gives each a handler, and passes on what it says.
//!
//! Decides nothing: the table does, and the network task carries it out.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::libp2p::core::Endpoint;
use ::libp2p::core::transport::PortUse;
use ::libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use ::libp2p::{Multiaddr, PeerId, connection_limits};

use super::handler::{Handler, Opened};
use crate::swarm::transport::TransportConfig;

/// TLS handshakes of strangers at a time.
const PENDING_INCOMING_MAX: u32 = 64;
/// Connections of one peer at a time: each side's dial, and an old one that is just ending.
const PER_PEER_MAX: u32 = 4;

/// Connections within bounds, each with our streams.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "::libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) connections: Connections,
}

impl Behaviour {
    pub(super) fn new(config: &TransportConfig) -> Self {
        let established = config.connections_max + config.connections_slack;
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
            .with_max_established(Some(u32::try_from(established).unwrap_or(u32::MAX)))
            .with_max_established_per_peer(Some(PER_PEER_MAX));
        let handshake_timeout = config.handshake_timeout;
        let opened = VecDeque::new();
        Self {
            limits: connection_limits::Behaviour::new(limits),
            connections: Connections { handshake_timeout, opened, waker: None },
        }
    }
}

/// A connection has its streams, or will not have them.
#[derive(Debug)]
pub(super) struct ConnectionOpened {
    pub(super) connection: ConnectionId,
    pub(super) opened: Opened,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connections {
    handshake_timeout: Duration,
    opened: VecDeque<ConnectionOpened>,
    waker: Option<Waker>,
}

impl NetworkBehaviour for Connections {
    type ConnectionHandler = Handler;
    type ToSwarm = ConnectionOpened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.handshake_timeout))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.handshake_timeout))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        opened: THandlerOutEvent<Self>,
    ) {
        self.opened.push_back(ConnectionOpened { connection, opened });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(opened));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
