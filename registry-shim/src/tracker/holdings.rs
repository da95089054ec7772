//! What members hold and want: announces, bitmaps, and the bounds on remembering them.

use std::collections::BTreeSet;

use longshore_proto::Digest;
use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;

use super::blob::{Blob, BlobId};
use super::cell::{Cell, state_blobs};
use super::limits::{
    BLOBS_PER_CELL_MAX, BLOBS_PER_MEMBER_MAX, PIECES_PER_CELL_MAX, PIECES_PER_MEMBER_MAX,
    WANTED_MAX,
};
use super::member::{MemberId, mix};
use super::request::{BlobKey, Held, Telling};
use super::{Member, TrackerError};

impl Cell {
    pub(super) fn announce(
        &mut self,
        now_ms: u64,
        member: &Member,
        telling: Telling,
    ) -> Result<rpc::AnnounceResponse, TrackerError> {
        let id = self.join(now_ms, member)?;
        self.tally.announces += 1;
        if telling.leaving {
            self.forget(id);
            return Ok(rpc::AnnounceResponse::default());
        }
        let resync = self.follow(id, &telling);
        if let Some(state) = self.members.get_mut(&id) {
            state.move_to(&telling.addresses);
        }
        self.remember_permits(id, &telling.held);
        self.report(id, &telling.reports);
        let wanted: BTreeSet<Digest> = telling.wanted.iter().copied().collect();
        self.want_exactly(id, wanted);
        self.take_holdings(id, telling.complete, telling.holdings, &telling.dropped);
        Ok(rpc::AnnounceResponse {
            peers: self.peers(id, &telling.wanted, self.config.peers_max),
            members: self.member_sample(id, telling.sequence),
            policy_epoch: 0,
            next_announce_ms: self.next_announce_ms(id, telling.sequence, resync),
            resync,
        })
    }

    /// Keeps count of a member's announces; true when the tracker has missed some.
    fn follow(&mut self, id: MemberId, telling: &Telling) -> bool {
        if telling.sequence > 1 && self.members.get(&id).is_some_and(|m| m.sequence.is_none()) {
            self.saw_earlier_life();
        }
        let Some(state) = self.members.get_mut(&id) else {
            return true;
        };
        let follows = state.sequence.is_some_and(|last| {
            // The same once more: its answer was lost.
            telling.sequence == last || Some(telling.sequence) == last.checked_add(1)
        });
        if telling.complete || follows {
            state.sequence = Some(telling.sequence);
        }
        !(telling.complete || follows)
    }

    /// A change only adds, but for what it says was dropped: a bitmap in it may be older than the
    /// one of a permit request that overtook it.
    fn take_holdings(
        &mut self,
        id: MemberId,
        complete: bool,
        holdings: Vec<(BlobKey, Held)>,
        dropped: &[Digest],
    ) {
        for digest in dropped {
            self.blobs_of(*digest).into_iter().for_each(|blob| self.hold_nothing(id, blob));
        }
        let mut told = BTreeSet::new();
        for (key, held) in holdings {
            let Some(blob) = self.blob(key) else {
                continue;
            };
            told.insert(blob);
            let held = if complete { held } else { self.united(id, blob, held) };
            self.hold(id, blob, held);
        }
        if complete {
            let gone = state_blobs(&self.members, id).into_iter().filter(|b| !told.contains(b));
            gone.for_each(|blob| self.hold_nothing(id, blob));
        }
    }

    fn united(&self, id: MemberId, blob: BlobId, told: Held) -> Held {
        let Held::Pieces(mut told) = told else {
            return Held::Whole;
        };
        match self.blobs.get(&blob).and_then(|blob| blob.held(id)) {
            None => Held::Pieces(told),
            Some(Held::Whole) => Held::Whole,
            Some(Held::Pieces(known)) => {
                known.iter().for_each(|piece| {
                    told.insert(piece);
                });
                Held::Pieces(told)
            }
        }
    }

    /// The announces of a fleet spread by up to a tenth to either side; who was lost comes soon.
    fn next_announce_ms(&self, id: MemberId, sequence: u64, resync: bool) -> u32 {
        let period = self.config.announce_period_ms;
        let hash = self.members.get(&id).map_or(0, |state| state.hash);
        let spread = period / 5;
        let jitter = (mix(hash ^ sequence) % u64::from(spread + 1)) as u32;
        if resync { period / 10 + jitter / 2 } else { period - spread / 2 + jitter }
    }

    /// The member holds this of the blob and nothing else, reported pieces excepted.
    pub(super) fn hold(&mut self, id: MemberId, blob_id: BlobId, held: Held) {
        let now_ms = self.now_ms;
        let Some(blob) = self.blobs.get_mut(&blob_id) else {
            return;
        };
        blob.used_ms = now_ms;
        let held = without(blob, held, self.reports.shunned(id, blob_id, now_ms));
        let change = blob.hold(id, held);
        let holds_some = blob.held(id).is_some();
        let pieces = u64::from(blob.pieces());
        self.tally.reopened += u64::from(change.reopened);
        let Some(state) = self.members.get_mut(&id) else {
            return;
        };
        if change.gained {
            state.asking.progress_ms = now_ms;
        }
        let is_new = holds_some && state.blobs.insert(blob_id);
        if is_new {
            state.pieces += pieces;
        } else if !holds_some && state.blobs.remove(&blob_id) {
            state.pieces -= pieces;
        }
        self.complete_permits(id, blob_id);
        if is_new {
            self.bound_member(id, blob_id);
        }
    }

    pub(super) fn hold_nothing(&mut self, id: MemberId, blob_id: BlobId) {
        if let Some(pieces) = self.blobs.get(&blob_id).map(Blob::pieces) {
            self.hold(id, blob_id, Held::Pieces(PieceSet::empty(pieces)));
        }
    }

    /// A member that holds too much is forgotten to hold its oldest blobs.
    fn bound_member(&mut self, id: MemberId, keep: BlobId) {
        while let Some(state) = self.members.get(&id) {
            let over =
                state.blobs.len() > BLOBS_PER_MEMBER_MAX || state.pieces > PIECES_PER_MEMBER_MAX;
            let oldest = state.blobs.iter().copied().find(|blob| *blob != keep);
            match oldest {
                Some(oldest) if over => self.hold_nothing(id, oldest),
                _ => return,
            }
        }
    }

    /// The member wants these digests and no others.
    pub(super) fn want_exactly(&mut self, id: MemberId, wanted: BTreeSet<Digest>) {
        let Some(state) = self.members.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut state.wanted, wanted.clone());
        for digest in before.difference(&wanted) {
            if let Some(wanters) = self.wanters.get_mut(digest) {
                wanters.remove(&id);
                if wanters.is_empty() {
                    self.wanters.remove(digest);
                }
            }
        }
        for digest in wanted.difference(&before) {
            self.wanters.entry(*digest).or_default().insert(id);
        }
    }

    /// The member also wants this digest.
    pub(super) fn want_also(&mut self, id: MemberId, digest: Digest) {
        let Some(state) = self.members.get_mut(&id) else {
            return;
        };
        if state.wanted.len() < WANTED_MAX && state.wanted.insert(digest) {
            self.wanters.entry(digest).or_default().insert(id);
        }
    }

    /// All that is tracked under a digest, however it is cut.
    pub(super) fn blobs_of(&self, digest: Digest) -> Vec<BlobId> {
        let least = BlobKey { digest, size: 0, piece_bytes: 0 };
        let most = BlobKey { digest, size: u64::MAX, piece_bytes: u64::MAX };
        self.by_key.range(least..=most).map(|(_, id)| *id).collect()
    }

    /// The blob, tracked from now on; `None` for an empty one, of which there is nothing to track.
    pub(super) fn blob(&mut self, key: BlobKey) -> Option<BlobId> {
        let pieces = u64::from(key.pieces());
        if let Some(id) = self.by_key.get(&key) {
            return Some(*id);
        }
        if pieces == 0 {
            return None;
        }
        let over = |cell: &Self| {
            cell.blobs.len() >= BLOBS_PER_CELL_MAX || cell.pieces + pieces > PIECES_PER_CELL_MAX
        };
        while over(self) {
            self.forget_least_used();
        }
        let id = BlobId(self.next_blob);
        self.next_blob += 1;
        self.blobs.insert(id, Blob::new(key, self.now_ms));
        self.by_key.insert(key, id);
        self.pieces += pieces;
        Some(id)
    }

    /// An eighth at a time, so that finding them costs little for each new blob.
    fn forget_least_used(&mut self) {
        let mut by_use: Vec<(u64, BlobId)> =
            self.blobs.iter().map(|(id, blob)| (blob.used_ms, *id)).collect();
        by_use.sort_unstable();
        by_use.truncate(self.blobs.len().div_ceil(8));
        by_use.into_iter().for_each(|(_, id)| self.forget_blob(id));
    }

    pub(super) fn forget_blob(&mut self, id: BlobId) {
        let Some(blob) = self.blobs.get(&id) else {
            return;
        };
        for (piece, permit) in blob.permit_holders() {
            self.release(id, piece, permit.member);
        }
        let Some(blob) = self.blobs.remove(&id) else {
            return;
        };
        let pieces = u64::from(blob.pieces());
        for member in blob.holder_ids() {
            if let Some(state) = self.members.get_mut(&member)
                && state.blobs.remove(&id)
            {
                state.pieces -= pieces;
            }
        }
        self.by_key.remove(&blob.key);
        self.pieces -= pieces;
    }
}

/// Leaves out the pieces for which the holder does not count now.
fn without(blob: &Blob, held: Held, shunned: Vec<u32>) -> Held {
    if shunned.is_empty() {
        return held;
    }
    let mut pieces = match held {
        Held::Whole => PieceSet::full(blob.pieces()),
        Held::Pieces(pieces) => pieces,
    };
    shunned.into_iter().for_each(|piece| {
        pieces.remove(PieceIndex(piece));
    });
    Held::Pieces(pieces)
}
