//! Where peers are found.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};
use longshore_proto::rpc::origin as rpc;

/// Peers remembered; the tracker names others when these are gone.
const PEERS_MAX: usize = 2048;
/// Addresses of one peer.
const ADDRESSES_MAX: usize = 8;

/// Addresses of peers, as the origin told them.
#[derive(Debug)]
pub(super) struct Book {
    own: PeerId,
    entries: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Book {
    pub(super) const fn new(own: PeerId) -> Self {
        Self { own, entries: BTreeMap::new() }
    }

    /// Writes a peer down; `None` where the message names nobody who could be dialled.
    pub(super) fn learn(&mut self, peer: &rpc::Peer) -> Option<PeerId> {
        let id: PeerId = peer.peer_id.parse().ok().filter(|id| *id != self.own)?;
        let addresses = peer.addresses.iter().filter_map(|text| text.parse().ok());
        let addresses: Vec<Multiaddr> = addresses.take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return self.entries.contains_key(&id).then_some(id);
        }
        if self.entries.len() >= PEERS_MAX && !self.entries.contains_key(&id) {
            self.entries.pop_first();
        }
        self.entries.insert(id, addresses);
        Some(id)
    }

    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.entries.get(peer).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_can_be_dialled() {
        let (own, other) = (PeerId::random(), PeerId::random());
        let mut book = Book::new(own);
        let peer = |id: &str, address: &str| rpc::Peer {
            peer_id: id.to_owned(),
            addresses: vec![address.to_owned()],
            zone: String::new(),
        };
        assert_eq!(book.learn(&peer("nobody", "/ip4/1.2.3.4/tcp/5")), None);
        assert_eq!(book.learn(&peer(&own.to_string(), "/ip4/1.2.3.4/tcp/5")), None);
        assert_eq!(book.learn(&peer(&other.to_string(), "nowhere")), None);
        let known = peer(&other.to_string(), "/ip4/1.2.3.4/tcp/5");
        assert_eq!(book.learn(&known), Some(other));
        assert_eq!(book.addresses(&other)[0].to_string(), "/ip4/1.2.3.4/tcp/5");
        assert_eq!(book.learn(&peer(&other.to_string(), "nowhere")), Some(other));
    }
}
