//! Which piece is asked of which peer, and what becomes of the request.
//!
//! The piece at a waiting client comes first. Among the others, the first ready ones in the order
//! of want are compared: a peer that owes least, then the piece that fewest hold, then the order.
//! So uplinks fill evenly and what one node alone holds spreads first.

use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::Engine;
use super::event::{DropReason, From, Output, RequestId};
use super::limits::{BUSY_WAIT, COMPARE_MAX, SCAN_MAX, STALLS_MAX};
use super::peers::{Slot, mix};
use super::pool::Rank;

/// How long a peer that stalled too often is not talked to.
const STALL_SHUN: Duration = Duration::from_secs(30);

/// A request in flight.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) slot: Slot,
    pub(super) key: u32,
    pub(super) digest: Digest,
    pub(super) piece: u32,
    asked_at: Duration,
}

impl Engine {
    /// Fills the window.
    pub(super) fn ask_peers(&mut self, now: Duration, out: &mut Vec<Output>) {
        while self.requests.len() < self.limits.requests
            && self.requests.len() + self.verifying < self.limits.requests + self.limits.verifying
        {
            let groups = self.peers.groups(now);
            if groups.is_empty() {
                return;
            }
            let choice = self
                .choose_urgent(&groups)
                .or_else(|| self.choose_ready(&groups))
                .or_else(|| self.choose_rival(now, &groups));
            let Some((rank, slot)) = choice else { return };
            self.ask(now, rank, slot, out);
        }
    }

    fn choose_urgent(&self, groups: &[u64]) -> Option<(Rank, Slot)> {
        self.urgent().into_iter().find_map(|rank| {
            let piece = self.pool.piece(rank.blob, rank.piece)?;
            let group = groups.iter().find(|group| *group & piece.holders != 0)?;
            piece.is_idle().then(|| (rank, self.pick(rank, group & piece.holders)))
        })
    }

    fn choose_ready(&self, groups: &[u64]) -> Option<(Rank, Slot)> {
        let best = self
            .pool
            .ready()
            .iter()
            .take(SCAN_MAX)
            .filter_map(|rank| {
                let holders = self.pool.piece(rank.blob, rank.piece)?.holders;
                let group = groups.iter().position(|group| group & holders != 0)?;
                Some((group, holders.count_ones(), *rank, groups[group] & holders))
            })
            .take(COMPARE_MAX)
            .min();
        best.map(|(_, _, rank, mask)| (rank, self.pick(rank, mask)))
    }

    /// In the endgame a second peer is asked for what a first one owes for long.
    fn choose_rival(&self, now: Duration, groups: &[u64]) -> Option<(Rank, Slot)> {
        if self.pool.missing() > self.limits.endgame_pieces {
            return None;
        }
        self.requests.values().find_map(|request| {
            let piece = self.pool.piece(request.key, request.piece)?;
            let others = piece.holders & !request.slot.bit();
            let group = groups.iter().find(|group| *group & others != 0)?;
            let due = piece.asks == 1 && now >= request.asked_at + self.limits.endgame_age;
            let rank = self.pool.rank(request.key, request.piece)?;
            due.then(|| (rank, self.pick(rank, group & others)))
        })
    }

    /// One of equals, by a hash that differs from node to node and from piece to piece.
    fn pick(&self, rank: Rank, mask: u64) -> Slot {
        let turn = u64::from(rank.blob) << 32 | u64::from(rank.piece);
        let weight =
            |slot: &Slot| self.peers.get(*slot).map_or(u64::MAX, |peer| mix(peer.hash ^ turn));
        Slot::all(mask).min_by_key(weight).expect("a group is never empty")
    }

    fn ask(&mut self, now: Duration, rank: Rank, slot: Slot, out: &mut Vec<Output>) {
        let Some(digest) = self.pool.blob(rank.blob).map(|blob| blob.digest) else { return };
        let request = self.fresh_id();
        self.pool.edit(rank.blob, rank.piece, |piece| piece.asks += 1);
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.owes == 0 {
            peer.moved_at = now;
        }
        peer.used_at = now;
        peer.owes += 1;
        out.push(Output::Request { peer: peer.id, request, digest, piece: PieceIndex(rank.piece) });
        let (key, piece) = (rank.blob, rank.piece);
        self.requests.insert(request, Request { slot, key, digest, piece, asked_at: now });
    }

    /// Takes a request out of flight and gives the peer its place back.
    fn settle(&mut self, request: RequestId) -> Option<Request> {
        let settled = self.requests.remove(&request)?;
        self.pool.edit(settled.key, settled.piece, |piece| {
            piece.asks = piece.asks.saturating_sub(1);
        });
        if let Some(peer) = self.peers.get_mut(settled.slot) {
            peer.owes = peer.owes.saturating_sub(1);
        }
        Some(settled)
    }

    pub(super) fn on_arrived(&mut self, now: Duration, request: RequestId) {
        let Some(settled) = self.settle(request) else { return };
        self.verifying += 1;
        self.pool.edit(settled.key, settled.piece, |piece| {
            piece.verifying = piece.verifying.saturating_add(1);
        });
        let most = self.limits.requests_per_peer;
        if let Some(peer) = self.peers.get_mut(settled.slot) {
            peer.moved_at = now;
            peer.used_at = now;
            peer.busy_streak = 0;
            peer.limit = (peer.limit + 1).min(most);
        }
    }

    pub(super) fn on_busy(&mut self, now: Duration, request: RequestId) {
        let Some(settled) = self.settle(request) else { return };
        if let Some(peer) = self.peers.get_mut(settled.slot) {
            peer.limit = peer.owes.max(1);
            peer.moved_at = now;
            if peer.owes == 0 {
                peer.busy_until = now + BUSY_WAIT * (1 << peer.busy_streak.min(1));
                peer.busy_streak += 1;
            }
        }
    }

    pub(super) fn on_refused(&mut self, request: RequestId) {
        let Some(settled) = self.settle(request) else { return };
        self.pool.edit(settled.key, settled.piece, |piece| {
            piece.holders &= !settled.slot.bit();
        });
        if let Some(id) = self.peers.get(settled.slot).map(|peer| peer.id) {
            self.source.report(id, settled.digest, PieceIndex(settled.piece));
        }
    }

    /// Ends what else was asked or read of a piece that is here now.
    pub(super) fn cancel_rivals(&mut self, key: u32, piece: u32, out: &mut Vec<Output>) {
        let its = |request: &Request| request.key == key && request.piece == piece;
        let rivals: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| its(r)).map(|(id, _)| *id).collect();
        for request in rivals {
            self.cancel(request, false, out);
        }
        self.cancel_read_of(key, piece, out);
    }

    pub(super) fn cancel(&mut self, request: RequestId, stalled: bool, out: &mut Vec<Output>) {
        let Some(settled) = self.settle(request) else { return };
        if let Some(peer) = self.peers.get(settled.slot) {
            let (peer, digest) = (peer.id, settled.digest);
            out.push(Output::Cancel { peer, request, digest, stalled });
        }
    }

    /// All that a peer owes.
    pub(super) fn owed_by(&self, slot: Slot) -> Vec<RequestId> {
        let its = self.requests.iter().filter(|(_, request)| request.slot == slot);
        its.map(|(id, _)| *id).collect()
    }

    /// Looks for peers that owe and do not send.
    pub(super) fn check_stalls(&mut self, now: Duration, out: &mut Vec<Output>) {
        let bound = self.limits.request_stall;
        let stalled: Vec<Slot> = self
            .peers
            .connected()
            .filter(|(_, peer)| peer.owes > 0 && now >= peer.moved_at + bound)
            .map(|(slot, _)| slot)
            .collect();
        for slot in stalled {
            self.on_stall(now, slot, out);
        }
        let digests = self.pool.digests();
        for peer in self.peers.unheard(now) {
            out.push(Output::TellWant { peers: vec![peer], digests: digests.clone() });
        }
    }

    fn on_stall(&mut self, now: Duration, slot: Slot, out: &mut Vec<Output>) {
        for request in self.owed_by(slot) {
            let reported = self.requests.get(&request).map(|r| (r.digest, PieceIndex(r.piece)));
            self.cancel(request, true, out);
            if let (Some(peer), Some((digest, piece))) = (self.peers.get(slot), reported) {
                self.source.report(peer.id, digest, piece);
            }
        }
        // Until it is heard again, others and the store are asked for what it has.
        self.pool.forget(slot, None);
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.slow = true;
        peer.unheard = true;
        peer.stalls += 1;
        peer.busy_until = now + self.limits.request_stall * peer.stalls;
        if peer.stalls >= STALLS_MAX {
            let id = peer.id;
            self.expel(now, id, DropReason::Stalled, STALL_SHUN, out);
        }
    }

    /// Closes a connection and shuns the peer for a while.
    pub(super) fn expel(
        &mut self,
        now: Duration,
        peer: PeerId,
        why: DropReason,
        shun: Duration,
        out: &mut Vec<Output>,
    ) {
        self.on_peer_down(now, &peer);
        self.peers.shun(peer, now + shun);
        out.push(Output::Drop { peer, why });
    }

    /// Books the end of a payload's verification. Returns where the peer is connected.
    pub(super) fn settle_verification(&mut self, key: Option<u32>, piece: u32, from: From) {
        if let From::Peer(_) = from {
            self.verifying = self.verifying.saturating_sub(1);
            if let Some(key) = key {
                self.pool.edit(key, piece, |known| {
                    known.verifying = known.verifying.saturating_sub(1);
                });
            }
        }
    }

    pub(super) fn redeem(&mut self, from: From) {
        if let From::Peer(id) = from
            && let Some(peer) = self.peers.slot(&id).and_then(|slot| self.peers.get_mut(slot))
        {
            peer.stalls = peer.stalls.saturating_sub(1);
            peer.slow = peer.stalls > 0;
        }
    }
}
