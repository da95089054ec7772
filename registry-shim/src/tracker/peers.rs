//! Whom a member is told of: peers for what it wants, and a small sample of the cell.
//!
//! Never the whole list, and not the same forty for everyone: samples are rotated by the asker's
//! hash, so that a boot storm makes a well-mixed graph and not forty hot spots.

use std::collections::BTreeSet;

use longshore_proto::Digest;
use longshore_proto::rpc::origin as rpc;

use super::Member;
use super::blob::{sample_keys, sample_set};
use super::cell::Cell;
use super::limits::WANTED_MAX;
use super::member::{MemberId, hash, mix};

/// Candidates looked at for each peer that is named: the nearest and freshest of them are.
const CANDIDATES_PER_PEER: usize = 2;
/// Fewest candidates that each digest adds, however many digests there are.
const CANDIDATES_PER_DIGEST_MIN: usize = 4;

impl Cell {
    /// A node begins to pull: others are told of it from now on.
    pub(super) fn begin(&mut self, id: MemberId, digests: &[Digest]) {
        digests.iter().take(WANTED_MAX).for_each(|digest| self.want_also(id, *digest));
    }

    /// Peers for a node that may not have spoken yet.
    pub(super) fn peers_for(
        &mut self,
        now_ms: u64,
        member: &Member,
        digests: &[Digest],
        max: usize,
    ) -> Vec<rpc::Peer> {
        self.sweep(now_ms);
        let id = self.by_peer.get(&member.peer_id).copied();
        let seed = hash(member.peer_id.as_bytes());
        let digests = &digests[..digests.len().min(WANTED_MAX)];
        self.choose(id, &member.zone, seed, self.candidates(seed, digests, max), max)
    }

    /// Peers for a member.
    pub(super) fn peers(&self, id: MemberId, digests: &[Digest], max: usize) -> Vec<rpc::Peer> {
        let Some(state) = self.members.get(&id) else {
            return Vec::new();
        };
        let candidates = self.candidates(state.hash, digests, max);
        self.choose(Some(id), &state.zone, state.hash, candidates, max)
    }

    /// Any members, others each time.
    pub(super) fn member_sample(&self, id: MemberId, turn: u64) -> Vec<rpc::Peer> {
        let Some(state) = self.members.get(&id) else {
            return Vec::new();
        };
        let wanted = self.config.members_sample;
        let seed = state.hash ^ mix(turn);
        let sample = sample_keys(&self.members, seed, wanted + 1);
        self.choose(Some(id), &state.zone, seed, sample.into_iter().collect(), wanted)
    }

    /// Holders, then others who want the same, a few of each digest.
    fn candidates(&self, seed: u64, digests: &[Digest], max: usize) -> BTreeSet<MemberId> {
        let enough = max.min(self.config.peers_max) * CANDIDATES_PER_PEER;
        let each = (enough / digests.len().max(1)).max(CANDIDATES_PER_DIGEST_MIN);
        let mut found = BTreeSet::new();
        for (at, digest) in digests.iter().enumerate() {
            if found.len() >= enough {
                break;
            }
            let seed = seed ^ mix(at as u64);
            for blob in self.blobs_of(*digest).iter().filter_map(|id| self.blobs.get(id)) {
                found.extend(blob.sample_wholes(seed, each));
                found.extend(blob.sample_partials(seed, each));
            }
            if let Some(wanters) = self.wanters.get(digest) {
                found.extend(sample_set(wanters, seed, each));
            }
        }
        found
    }

    /// Same zone first, then those who spoke lately, then as the seed has it.
    fn choose(
        &self,
        id: Option<MemberId>,
        zone: &str,
        seed: u64,
        candidates: BTreeSet<MemberId>,
        max: usize,
    ) -> Vec<rpc::Peer> {
        let period = u64::from(self.config.announce_period_ms);
        let fresh_since = self.now_ms.saturating_sub(period + period / 2);
        let mut chosen: Vec<_> = candidates
            .into_iter()
            .filter(|candidate| Some(*candidate) != id)
            .filter_map(|candidate| Some((candidate, self.members.get(&candidate)?)))
            .filter(|(_, state)| !state.addresses.is_empty())
            .collect();
        chosen.sort_by_key(|(candidate, state)| {
            (state.zone != zone, state.spoke_ms < fresh_since, mix(seed ^ candidate.0))
        });
        let max = max.min(self.config.peers_max);
        chosen.into_iter().take(max).map(|(_, state)| state.peer()).collect()
    }
}
