//! The life of a permit: given, then completed, expired, or taken back with its member.

use longshore_proto::Digest;

use super::blob::{BlobId, Permit};
use super::cell::Cell;
use super::member::MemberId;

impl Cell {
    /// Gives the member leave for one piece; an older leave of its own for it ends.
    pub(super) fn issue(&mut self, id: MemberId, blob_id: BlobId, piece: u32, permit_id: u64) {
        self.release(blob_id, piece, id);
        let deadline_ms = self.now_ms + u64::from(self.config.permit_deadline_ms);
        let Some((blob, state)) = self.blobs.get_mut(&blob_id).zip(self.members.get_mut(&id))
        else {
            return;
        };
        let permit = Permit { id: permit_id, member: id, given_ms: self.now_ms, deadline_ms };
        blob.permit(piece, permit);
        blob.used_ms = self.now_ms;
        state.permits.insert((blob_id, piece));
        self.deadlines.insert((deadline_ms, blob_id, piece, id));
        self.window.opened(blob.key.piece_length(piece));
    }

    /// Ends a permit, whatever became of the piece; with whether nobody holds or reads it now.
    pub(super) fn release(
        &mut self,
        blob_id: BlobId,
        piece: u32,
        id: MemberId,
    ) -> Option<(Permit, bool)> {
        let blob = self.blobs.get_mut(&blob_id)?;
        let released = blob.release(piece, id)?;
        self.window.closed(blob.key.piece_length(piece));
        self.deadlines.remove(&(released.0.deadline_ms, blob_id, piece, id));
        if let Some(state) = self.members.get_mut(&id) {
            state.permits.remove(&(blob_id, piece));
        }
        Some(released)
    }

    /// Ends a permit whose piece did not come.
    pub(super) fn reopen(&mut self, blob_id: BlobId, piece: u32, id: MemberId) {
        if let Some((_, true)) = self.release(blob_id, piece, id) {
            self.tally.reopened += 1;
        }
    }

    /// Ends the member's permits for pieces that it now holds.
    pub(super) fn complete_permits(&mut self, id: MemberId, blob_id: BlobId) {
        let Some((state, blob)) = self.members.get(&id).zip(self.blobs.get(&blob_id)) else {
            return;
        };
        let held = state
            .permits
            .range((blob_id, 0)..=(blob_id, u32::MAX))
            .map(|(_, piece)| *piece)
            .filter(|piece| blob.holds(id, *piece))
            .collect::<Vec<_>>();
        let (now_ms, key) = (self.now_ms, blob.key);
        for piece in held {
            if let Some(permit) = blob_permit(self, blob_id, piece, id) {
                let took_ms = now_ms.saturating_sub(permit.given_ms);
                self.window.arrived(now_ms, took_ms, key.piece_length(piece));
            }
            self.release(blob_id, piece, id);
            if let Some(state) = self.members.get_mut(&id) {
                state.strikes = 0;
            }
        }
    }

    /// Ends the permits that are past their deadline.
    pub(super) fn expire_permits(&mut self) {
        while let Some((deadline_ms, blob_id, piece, id)) = self.deadlines.first().copied() {
            if deadline_ms > self.now_ms {
                return;
            }
            self.reopen(blob_id, piece, id);
            self.tally.expired += 1;
            self.window.shrink(self.now_ms);
            if let Some(state) = self.members.get_mut(&id) {
                state.strikes = state.strikes.saturating_add(1);
            }
        }
    }

    /// Believes a member that is new here about the permits that another instance gave it: any
    /// such permit has ended once the member has been known for as long as a permit lasts.
    pub(super) fn remember_permits(&mut self, id: MemberId, held: &[(Digest, u32, u64)]) {
        let deadline_ms = u64::from(self.config.permit_deadline_ms);
        for (digest, piece, permit_id) in held {
            let Some(state) = self.members.get(&id) else {
                return;
            };
            let is_new = self.now_ms < state.joined_ms + deadline_ms;
            let may_have = self.config.outstanding_per_node as usize;
            if !is_new || state.permits.len() >= may_have {
                return;
            }
            let lacking = |blob_id: &BlobId| {
                self.blobs.get(blob_id).is_some_and(|blob| {
                    *piece < blob.pieces()
                        && !blob.holds(id, *piece)
                        && blob.permit_of(*piece, id).is_none()
                })
            };
            if let Some(blob_id) = self.blobs_of(*digest).into_iter().find(lacking) {
                self.saw_earlier_life();
                self.issue(id, blob_id, *piece, *permit_id);
            }
        }
    }
}

fn blob_permit(cell: &Cell, blob_id: BlobId, piece: u32, id: MemberId) -> Option<Permit> {
    cell.blobs.get(&blob_id)?.permit_of(piece, id).copied()
}
