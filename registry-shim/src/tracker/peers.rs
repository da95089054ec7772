//! Whom a node is told of: those that have or fetch what it wants, and a sample of the others.
//!
//! Same zone first. Beyond that every node gets its own mixture, the same each time, so that
//! connections stay and the swarm has no centre.

use std::collections::BTreeSet;

use longshore_proto::Digest;

use super::cell::{Cell, MemberId};
use super::{MEMBER_SAMPLE, PEERS_MAX, Peer};

impl Cell {
    /// Who has or fetches any of the blobs.
    pub(super) fn peers_for(&self, id: MemberId, digests: &[Digest]) -> Vec<Peer> {
        let mut candidates = BTreeSet::new();
        for swarm in digests.iter().filter_map(|digest| self.swarms.get(digest)) {
            candidates.extend(swarm.holders());
            candidates.extend(swarm.interested());
        }
        self.choose(id, candidates, PEERS_MAX)
    }

    /// Some members, whatever they have.
    pub(super) fn sample(&self, id: MemberId) -> Vec<Peer> {
        self.choose(id, self.members.keys().copied(), MEMBER_SAMPLE)
    }

    /// The first `max` of those that can be reached, in the node's own order.
    pub(super) fn choose(
        &self,
        id: MemberId,
        candidates: impl IntoIterator<Item = MemberId>,
        max: usize,
    ) -> Vec<Peer> {
        let zone = self.members.get(&id).map(|member| member.peer.zone.as_str());
        let mut ranked: Vec<(bool, u64, &Peer)> = candidates
            .into_iter()
            .filter(|candidate| *candidate != id)
            .filter_map(|candidate| Some((candidate, &self.members.get(&candidate)?.peer)))
            .filter(|(_, peer)| !peer.addresses.is_empty())
            .map(|(candidate, peer)| (Some(peer.zone.as_str()) != zone, mix(id, candidate), peer))
            .collect();
        let order = |(far, mixed, _): &(bool, u64, &Peer)| (*far, *mixed);
        if ranked.len() > max {
            ranked.select_nth_unstable_by_key(max, order);
            ranked.truncate(max);
        }
        ranked.sort_unstable_by_key(order);
        ranked.into_iter().map(|(_, _, peer)| peer.clone()).collect()
    }
}

/// A well-spread number for a pair (the finalizer of SplitMix64, Steele et al. 2014).
const fn mix(a: MemberId, b: MemberId) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
