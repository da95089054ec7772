//! The driver's hold on a network, whatever carries the bytes.
//!
//! Owns nothing: what is asked of it goes into the table, and the network task carries it out.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ::libp2p::{Multiaddr, PeerId};
use bytes::Bytes;
use longshore_proto::rpc::swarm as swarm_rpc;

use super::table::Table;
use super::{SendError, Transport};

/// A transport over a table; `on_way` is what befalls a payload on its way to a peer.
pub(super) struct Handle<W> {
    table: Arc<Table>,
    addr: SocketAddr,
    on_way: W,
}

impl<W> Handle<W>
where
    W: Fn(PeerId, Bytes) -> Bytes + Send + Sync,
{
    pub(super) const fn new(table: Arc<Table>, addr: SocketAddr, on_way: W) -> Self {
        Self { table, addr, on_way }
    }
}

impl<W> Transport for Handle<W>
where
    W: Fn(PeerId, Bytes) -> Bytes + Send + Sync,
{
    fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.table.dial(peer, addresses);
    }

    fn disconnect(&self, peer: PeerId) {
        self.table.disconnect(peer);
    }

    fn send_control(
        &self,
        peer: PeerId,
        message: swarm_rpc::ControlMessage,
    ) -> Result<(), SendError> {
        self.table.send_control(peer, message)
    }

    fn send_piece(&self, peer: PeerId, id: u64, payload: Bytes) -> Result<(), SendError> {
        self.table.send_piece(peer, id, (self.on_way)(peer, payload))
    }

    fn cancel_piece(&self, peer: PeerId, id: u64) {
        self.table.cancel_piece(peer, id);
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl<W> fmt::Debug for Handle<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("addr", &self.addr).finish_non_exhaustive()
    }
}
