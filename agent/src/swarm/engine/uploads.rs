//! What other nodes get: news of pieces, and a few uploads at a time.
//!
//! A queue is a delay for somebody, so there is none: beyond a few uploads that move, BUSY sends
//! the asker elsewhere. An upload to a reader that stopped reading does not count as moving, so
//! that it takes nobody's place.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::Engine;
use super::event::{Output, RequestId};
use super::limits::INTEREST_MAX;
use super::peers::Slot;

/// An upload without news for this long does not count as moving: its reader may have stopped.
const STANDING: Duration = Duration::from_secs(3);
/// A peer that was told BUSY keeps its turn for this long after its last try.
const TURN: Duration = Duration::from_millis(300);
/// WANT waits this long for company.
const WANT_DELAY: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(super) struct Uploads {
    running: BTreeMap<(Slot, RequestId), Duration>,
    /// Peers that were told BUSY while they got nothing: since when, and their last try.
    turns: BTreeMap<Slot, (Duration, Duration)>,
    interest: BTreeMap<Digest, u64>,
    have: BTreeMap<Digest, Vec<PieceIndex>>,
    have_since: Duration,
    want: Vec<Digest>,
    want_since: Duration,
}

impl Engine {
    pub(super) fn on_upload(&mut self, now: Duration, slot: Slot, request: RequestId) -> bool {
        let before = self.turns_before(now, slot);
        let uploads = &self.uploads.running;
        let to_peer = uploads.keys().filter(|(to, _)| *to == slot).count();
        let moves = |since: &&Duration| now < **since + STANDING;
        let moving = uploads.values().filter(moves).count();
        let alone = uploads.len() == to_peer;
        let most = if alone { self.limits.uploads } else { self.limits.uploads_per_peer };
        let free = self.limits.uploads.saturating_sub(moving);
        let accept = to_peer < most && free > before && uploads.len() < self.limits.uploads_total;
        if accept {
            self.uploads.running.insert((slot, request), now);
            self.uploads.turns.remove(&slot);
        } else if to_peer == 0 {
            self.uploads.turns.entry(slot).or_insert((now, now)).1 = now;
        }
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.used_at = now;
        }
        accept
    }

    /// How many other peers have been waiting for longer, without any upload. Without turns, who
    /// has just got a piece asks at once and who was told BUSY comes too late for ever.
    fn turns_before(&mut self, now: Duration, slot: Slot) -> usize {
        self.uploads.turns.retain(|_, (_, tried_at)| now < *tried_at + TURN);
        let mine = self.uploads.turns.get(&slot).map_or(now, |(since, _)| *since);
        let before = |(other, (since, _)): &(&Slot, &(Duration, Duration))| {
            **other != slot && (*since, **other) < (mine, slot)
        };
        self.uploads.turns.iter().filter(before).count()
    }

    pub(super) fn on_upload_progress(&mut self, now: Duration, slot: Slot) {
        let its = self.uploads.running.iter_mut().filter(|((to, _), _)| *to == slot);
        its.for_each(|(_, moved_at)| *moved_at = now);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.used_at = now;
        }
    }

    pub(super) fn on_upload_ended(&mut self, slot: Slot, request: RequestId) {
        self.uploads.running.remove(&(slot, request));
    }

    pub(super) fn on_interest(&mut self, slot: Slot, digests: Vec<Digest>, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get(slot).map(|peer| peer.id) else { return };
        let its = |mask: &&u64| **mask & slot.bit() != 0;
        let known = self.uploads.interest.values().filter(its).count();
        for digest in digests.into_iter().take(INTEREST_MAX.saturating_sub(known)) {
            *self.uploads.interest.entry(digest).or_default() |= slot.bit();
            out.push(Output::TellHave { peers: vec![peer], digest, runs: None });
        }
    }

    pub(super) fn forget_interest(&mut self, slot: Slot) {
        self.uploads.running.retain(|(to, _), _| *to != slot);
        self.uploads.turns.remove(&slot);
        self.uploads.interest.retain(|_, mask| {
            *mask &= !slot.bit();
            *mask != 0
        });
    }

    /// A piece can be served from now on.
    pub(super) fn news(&mut self, now: Duration, digest: Digest, piece: PieceIndex) {
        if self.uploads.interest.contains_key(&digest) {
            if self.uploads.have.is_empty() {
                self.uploads.have_since = now;
            }
            self.uploads.have.entry(digest).or_default().push(piece);
        }
    }

    /// A blob is wanted from now on.
    pub(super) fn news_of_want(&mut self, now: Duration, digest: Digest) {
        if self.uploads.want.is_empty() {
            self.uploads.want_since = now;
        }
        self.uploads.want.push(digest);
    }

    /// Sends the news that have waited long enough.
    pub(super) fn tell(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.tell_at().is_none_or(|at| now < at) {
            return;
        }
        if now >= self.uploads.have_since + self.limits.have_delay {
            for (digest, pieces) in std::mem::take(&mut self.uploads.have) {
                let interested = self.uploads.interest.get(&digest).copied().unwrap_or(0);
                let peers = self.peers.ids(interested);
                if !peers.is_empty() {
                    out.push(Output::TellHave { peers, digest, runs: Some(runs(pieces)) });
                }
            }
        }
        if now >= self.uploads.want_since + WANT_DELAY {
            let digests = std::mem::take(&mut self.uploads.want);
            let peers = self.peers.ids(self.peers.mask());
            if !digests.is_empty() && !peers.is_empty() {
                out.push(Output::TellWant { peers, digests });
            }
        }
    }

    /// When there is something to tell.
    pub(super) fn tell_at(&self) -> Option<Duration> {
        let uploads = &self.uploads;
        let have = (!uploads.have.is_empty()).then(|| uploads.have_since + self.limits.have_delay);
        let want = (!uploads.want.is_empty()).then(|| uploads.want_since + WANT_DELAY);
        [have, want].into_iter().flatten().min()
    }
}

fn runs(mut pieces: Vec<PieceIndex>) -> Vec<(PieceIndex, u32)> {
    pieces.sort();
    pieces.dedup();
    let mut runs: Vec<(PieceIndex, u32)> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some((first, count)) if first.0 + *count == piece.0 => *count += 1,
            _ => runs.push((piece, 1)),
        }
    }
    runs
}
