//! The one pool of pieces over all blobs wanted, in the order in which they are wanted.
//!
//! Owns what is known of each piece: who holds it, who was asked, whether it is here. Every change
//! keeps two ordered sets true, so that no decision has to look at all pieces: `ready` (idle, some
//! peer holds it) and `orphans` (idle, no peer does).

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::Digest;
use longshore_proto::piece::{PieceIndex, PieceSet};

use super::event::WantBlob;
use super::peers::Slot;

/// A piece's place in the order of want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) order: u64,
    pub(super) blob: u32,
    pub(super) piece: u32,
}

/// What is known of one piece.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece {
    /// One bit per connected peer.
    pub(super) holders: u64,
    /// Requests in flight.
    pub(super) asks: u8,
    /// Payloads being verified.
    pub(super) verifying: u8,
    /// Reads of the store in flight.
    pub(super) reads: u8,
    /// Leave to read it is here, the read has not begun.
    pub(super) permitted: bool,
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) piece_bytes: u64,
    pub(super) order: u64,
    pub(super) held: PieceSet,
    pub(super) pieces: Vec<Piece>,
    /// The origin does not give it.
    pub(super) closed: bool,
    pub(super) bad_reads: u32,
}

#[derive(Debug, Default)]
pub(super) struct Pool {
    blobs: BTreeMap<u32, Blob>,
    by_digest: BTreeMap<Digest, u32>,
    by_order: BTreeSet<(u64, u32)>,
    ready: BTreeSet<Rank>,
    orphans: BTreeSet<Rank>,
    next_blob: u32,
    missing: u64,
}

impl Piece {
    pub(super) const fn is_idle(&self) -> bool {
        self.asks == 0 && self.verifying == 0 && self.reads == 0 && !self.permitted
    }
}

impl Blob {
    /// Bytes of `pieces` pieces from `first` on.
    pub(super) fn bytes(&self, first: u32, pieces: u32) -> u64 {
        let start = u64::from(first) * self.piece_bytes;
        let end = (u64::from(first) + u64::from(pieces)) * self.piece_bytes;
        end.min(self.size).saturating_sub(start)
    }

    pub(super) fn lacks(&self, piece: u32) -> bool {
        (piece as usize) < self.pieces.len() && !self.held.contains(PieceIndex(piece))
    }
}

impl Pool {
    /// Adds a blob, or changes the order of one that is here. True when it is new.
    pub(super) fn add(&mut self, want: WantBlob) -> bool {
        if let Some(blob) = self.by_digest.get(&want.digest).copied() {
            self.reorder(blob, want.order);
            return false;
        }
        let key = self.next_blob;
        self.next_blob += 1;
        let pieces = want.held.pieces();
        self.missing += u64::from(pieces - want.held.len());
        let blob = Blob {
            digest: want.digest,
            size: want.size,
            piece_bytes: want.piece_bytes,
            order: want.order,
            pieces: vec![Piece::default(); pieces as usize],
            held: want.held,
            closed: false,
            bad_reads: 0,
        };
        self.by_digest.insert(want.digest, key);
        self.by_order.insert((want.order, key));
        self.blobs.insert(key, blob);
        (0..pieces).for_each(|piece| self.place(key, piece));
        true
    }

    fn reorder(&mut self, key: u32, order: u64) {
        let Some(blob) = self.blobs.get_mut(&key).filter(|blob| order < blob.order) else {
            return;
        };
        let pieces = blob.pieces.len() as u32;
        let old = std::mem::replace(&mut blob.order, order);
        self.by_order.remove(&(old, key));
        self.by_order.insert((order, key));
        for piece in 0..pieces {
            let rank = Rank { order: old, blob: key, piece };
            self.ready.remove(&rank);
            self.orphans.remove(&rank);
            self.place(key, piece);
        }
    }

    /// Takes a blob out.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        let key = self.by_digest.remove(digest)?;
        let blob = self.blobs.remove(&key)?;
        self.by_order.remove(&(blob.order, key));
        for piece in 0..blob.pieces.len() as u32 {
            let rank = Rank { order: blob.order, blob: key, piece };
            self.ready.remove(&rank);
            self.orphans.remove(&rank);
        }
        self.missing -= u64::from(blob.held.pieces() - blob.held.len());
        Some(blob)
    }

    /// Changes what is known of a piece and keeps the sets true. `None` when the blob is gone.
    pub(super) fn edit<T>(
        &mut self,
        key: u32,
        piece: u32,
        edit: impl FnOnce(&mut Piece) -> T,
    ) -> Option<T> {
        let known = self.blobs.get_mut(&key)?.pieces.get_mut(piece as usize)?;
        let result = edit(known);
        self.place(key, piece);
        Some(result)
    }

    /// The piece is verified and stored. False when it was before, or is unknown.
    pub(super) fn hold(&mut self, key: u32, piece: u32) -> bool {
        let Some(blob) = self.blobs.get_mut(&key) else { return false };
        let fresh = blob.held.insert(PieceIndex(piece));
        self.missing -= u64::from(fresh);
        self.place(key, piece);
        fresh
    }

    /// Takes a peer's bit out of every piece, of one blob or of all.
    pub(super) fn forget(&mut self, slot: Slot, only: Option<&Digest>) {
        let only = only.map(|digest| self.by_digest.get(digest).copied());
        let keys: Vec<u32> = match only {
            Some(None) => return,
            Some(Some(key)) => vec![key],
            None => self.blobs.keys().copied().collect(),
        };
        for key in keys {
            let Some(blob) = self.blobs.get(&key) else { continue };
            let held = |piece: &&u32| blob.pieces[**piece as usize].holders & slot.bit() != 0;
            let all: Vec<u32> = (0..blob.pieces.len() as u32).collect();
            let its: Vec<u32> = all.iter().filter(held).copied().collect();
            for piece in its {
                self.edit(key, piece, |known| known.holders &= !slot.bit());
            }
        }
    }

    fn place(&mut self, key: u32, piece: u32) {
        let Some(blob) = self.blobs.get(&key) else { return };
        let rank = Rank { order: blob.order, blob: key, piece };
        let known = &blob.pieces[piece as usize];
        let open = blob.lacks(piece) && known.is_idle();
        keep(&mut self.ready, rank, open && known.holders != 0);
        keep(&mut self.orphans, rank, open && known.holders == 0);
    }

    pub(super) fn key(&self, digest: &Digest) -> Option<u32> {
        self.by_digest.get(digest).copied()
    }

    pub(super) fn blob(&self, key: u32) -> Option<&Blob> {
        self.blobs.get(&key)
    }

    pub(super) fn blob_mut(&mut self, key: u32) -> Option<&mut Blob> {
        self.blobs.get_mut(&key)
    }

    pub(super) fn piece(&self, key: u32, piece: u32) -> Option<&Piece> {
        self.blobs.get(&key)?.pieces.get(piece as usize)
    }

    pub(super) fn rank(&self, key: u32, piece: u32) -> Option<Rank> {
        Some(Rank { order: self.blobs.get(&key)?.order, blob: key, piece })
    }

    /// Blobs in the order of want.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (u32, &Blob)> {
        self.by_order.iter().filter_map(|(_, key)| Some((*key, self.blobs.get(key)?)))
    }

    pub(super) fn digests(&self) -> Vec<Digest> {
        self.in_order().map(|(_, blob)| blob.digest).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Pieces that are not here, of all blobs.
    pub(super) const fn missing(&self) -> u64 {
        self.missing
    }

    pub(super) const fn ready(&self) -> &BTreeSet<Rank> {
        &self.ready
    }

    pub(super) const fn orphans(&self) -> &BTreeSet<Rank> {
        &self.orphans
    }

    /// The first pieces of a blob that nobody is known to hold.
    pub(super) fn orphans_of(&self, key: u32) -> impl Iterator<Item = u32> {
        let order = self.blobs.get(&key).map_or(0, |blob| blob.order);
        let first = Rank { order, blob: key, piece: 0 };
        let last = Rank { order, blob: key, piece: u32::MAX };
        self.orphans.range(first..=last).map(|rank| rank.piece)
    }
}

fn keep(set: &mut BTreeSet<Rank>, rank: Rank, inside: bool) {
    if inside {
        set.insert(rank);
    } else {
        set.remove(&rank);
    }
}
