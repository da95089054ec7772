//! Who a client is where its share is counted: whom it says it is, or the prefix that it comes from.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use super::prefix::masked;
use crate::auth::Actor;

/// What one subscriber has of IPv6, at least.
const IPV6_PREFIX_BITS: u32 = 64;

/// Names clients by numbers.
#[derive(Debug)]
pub(super) struct Clients {
    /// Nobody can choose names that fall together.
    hasher: RandomState,
    nodes: bool,
}

impl Clients {
    /// Nodes that joined are clients where `nodes` says so.
    pub(super) fn new(nodes: bool) -> Self {
        Self { hasher: RandomState::new(), nodes }
    }

    /// The client's number; whoever is `None` showed something that nobody knows. No number: it is
    /// exempt.
    pub(super) fn number(&self, actor: Option<&Actor>, address: IpAddr) -> Option<u64> {
        match actor {
            Some(Actor::Node(_)) if !self.nodes => None,
            Some(Actor::Node(session)) => Some(self.hasher.hash_one(&session.peer_id)),
            Some(known @ Actor::Known(principal)) if !known.is_anonymous() => {
                Some(self.hasher.hash_one(principal.label()))
            }
            _ => {
                let address = address.to_canonical();
                let prefix = masked(address, IPV6_PREFIX_BITS);
                Some(self.hasher.hash_one((address.is_ipv4(), prefix)))
            }
        }
    }
}
