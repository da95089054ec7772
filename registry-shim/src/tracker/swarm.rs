//! One blob in one cell: who holds which piece, and which pieces are being fetched.
//!
//! Keeps, for every piece, the count of live holders; so that "does the cell have it?" costs
//! nothing. Ordered maps only: equal histories give equal answers.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::piece::{PieceIndex, PieceSet, piece_bytes_for};

use super::cell::MemberId;

/// How long a piece of a holder that was reported unreachable does not count.
const DOUBT_MS: u64 = 30_000;

/// What a cell knows of a blob.
#[derive(Debug)]
pub(super) struct Swarm {
    size: u64,
    holdings: BTreeMap<MemberId, PieceSet>,
    /// Live holders of each piece.
    copies: Vec<u32>,
    /// Permits that are out, by piece.
    out: BTreeMap<u32, BTreeMap<u64, MemberId>>,
    /// Members that download the blob.
    interested: BTreeSet<MemberId>,
    doubts: BTreeMap<(MemberId, u32), Doubt>,
    /// When a member was first refused a piece.
    waiting: BTreeMap<(u32, MemberId), u64>,
    /// Copies given beyond the first.
    pub(super) extra_used: u32,
}

#[derive(Debug)]
struct Doubt {
    reporters: BTreeSet<MemberId>,
    since_ms: u64,
    confirmed: bool,
}

impl Swarm {
    pub(super) fn new(size: u64) -> Self {
        let pieces = pieces_of(size);
        Self {
            size,
            holdings: BTreeMap::new(),
            copies: vec![0; pieces as usize],
            out: BTreeMap::new(),
            interested: BTreeSet::new(),
            doubts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            extra_used: 0,
        }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn pieces(&self) -> u32 {
        self.copies.len() as u32
    }

    /// Bytes of one piece.
    pub(super) fn piece_length(&self, piece: PieceIndex) -> u64 {
        let length = piece_bytes_for(self.size);
        length.min(self.size - u64::from(piece.0) * length)
    }

    pub(super) fn holds(&self, member: MemberId, piece: PieceIndex) -> bool {
        self.holdings.get(&member).is_some_and(|have| have.contains(piece))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.holdings.is_empty() && self.out.is_empty() && self.interested.is_empty()
    }

    /// Adds pieces to what a member holds; returns its permits that are fulfilled by them.
    pub(super) fn add(&mut self, member: MemberId, have: &PieceSet) -> Vec<u64> {
        let mut fulfilled = Vec::new();
        let held = self.holdings.entry(member).or_insert_with(|| PieceSet::empty(have.pieces()));
        for piece in have.iter() {
            let doubted = self.doubts.get(&(member, piece.0)).is_some_and(|d| d.confirmed);
            if doubted || !held.insert(piece) {
                continue;
            }
            self.copies[piece.0 as usize] += 1;
            self.waiting.remove(&(piece.0, member));
            if let Some(out) = self.out.get_mut(&piece.0) {
                fulfilled.extend(out.iter().filter(|(_, m)| **m == member).map(|(id, _)| *id));
                out.retain(|_, m| *m != member);
                if out.is_empty() {
                    self.out.remove(&piece.0);
                }
            }
        }
        fulfilled
    }

    /// A member holds nothing of the blob any more.
    pub(super) fn drop_holding(&mut self, member: MemberId) {
        let Some(held) = self.holdings.remove(&member) else { return };
        for piece in held.iter() {
            self.copies[piece.0 as usize] -= 1;
        }
    }

    /// A member is gone; its permits are closed by the caller.
    pub(super) fn forget(&mut self, member: MemberId) {
        self.drop_holding(member);
        self.interested.remove(&member);
        self.doubts.retain(|(holder, _), _| *holder != member);
        self.waiting.retain(|(_, waiter), _| *waiter != member);
    }

    pub(super) fn set_interested(&mut self, member: MemberId, interested: bool) {
        if interested {
            self.interested.insert(member);
        } else {
            self.interested.remove(&member);
            self.waiting.retain(|(_, waiter), _| *waiter != member);
        }
    }

    pub(super) fn interested(&self) -> &BTreeSet<MemberId> {
        &self.interested
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.holdings.iter().filter(|(_, have)| !have.is_empty()).map(|(member, _)| *member)
    }

    /// Others that hold the piece, then others that fetch it.
    pub(super) fn sources(&self, piece: PieceIndex, but: MemberId) -> Vec<MemberId> {
        let holders = self.holdings.iter().filter(|(_, have)| have.contains(piece));
        let fetchers = self.out.get(&piece.0).into_iter().flat_map(|out| out.values());
        let mut sources: Vec<MemberId> = Vec::new();
        for member in holders.map(|(member, _)| *member).chain(fetchers.copied()) {
            if member != but && !sources.contains(&member) {
                sources.push(member);
            }
        }
        sources
    }

    /// Whether the cell has the piece, or someone of it is fetching it.
    pub(super) fn is_covered(&self, piece: PieceIndex) -> bool {
        self.copies[piece.0 as usize] > 0 || self.out.contains_key(&piece.0)
    }

    pub(super) fn has_permit(&self, member: MemberId, piece: PieceIndex) -> bool {
        self.out.get(&piece.0).is_some_and(|out| out.values().any(|m| *m == member))
    }

    pub(super) fn open(&mut self, piece: PieceIndex, permit: u64, member: MemberId) {
        self.out.entry(piece.0).or_default().insert(permit, member);
        self.waiting.remove(&(piece.0, member));
    }

    pub(super) fn close(&mut self, piece: PieceIndex, permit: u64) {
        if let Some(out) = self.out.get_mut(&piece.0) {
            out.remove(&permit);
            if out.is_empty() {
                self.out.remove(&piece.0);
            }
        }
    }

    /// How long a member has been refused the piece.
    pub(super) fn waited(&mut self, piece: PieceIndex, member: MemberId, now_ms: u64) -> u64 {
        now_ms.saturating_sub(*self.waiting.entry((piece.0, member)).or_insert(now_ms))
    }

    /// One more says that `holder` does not serve the piece. Once `needed` distinct members said
    /// so, the piece does not count for that holder for a while: true when that happened now.
    /// The permits that `holder` has out for it are returned to be closed.
    pub(super) fn doubt(
        &mut self,
        holder: MemberId,
        piece: PieceIndex,
        reporter: MemberId,
        needed: usize,
        now_ms: u64,
    ) -> Option<Vec<u64>> {
        let held = self.holds(holder, piece);
        if !held && !self.has_permit(holder, piece) {
            return None;
        }
        let doubt = self.doubts.entry((holder, piece.0)).or_insert_with(|| Doubt {
            reporters: BTreeSet::new(),
            since_ms: now_ms,
            confirmed: false,
        });
        doubt.reporters.insert(reporter);
        if doubt.reporters.len() < needed {
            return None;
        }
        doubt.confirmed = true;
        doubt.since_ms = now_ms;
        if held && self.holdings.get_mut(&holder).is_some_and(|have| have.remove(piece)) {
            self.copies[piece.0 as usize] -= 1;
        }
        let out = self.out.get(&piece.0);
        let permits = out.into_iter().flatten().filter(|(_, m)| **m == holder);
        Some(permits.map(|(id, _)| *id).collect())
    }

    /// Doubts end: the holder may say again that it holds the piece.
    pub(super) fn end_doubts(&mut self, now_ms: u64) {
        self.doubts.retain(|_, doubt| now_ms < doubt.since_ms + DOUBT_MS);
    }
}

/// How many pieces a blob has for everyone.
pub(super) fn pieces_of(size: u64) -> u32 {
    u32::try_from(size.div_ceil(piece_bytes_for(size))).unwrap_or(u32::MAX)
}
