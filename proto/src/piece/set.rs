//! A set of a blob's pieces, and its form on the wire: a bitmap, least significant bit first.

use super::PieceIndex;

/// Which of a blob's pieces someone holds; its size is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    held: u32,
}

impl PieceSet {
    /// None of `pieces`.
    pub fn empty(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(64) as usize], pieces, held: 0 }
    }

    /// All of `pieces`.
    pub fn full(pieces: u32) -> Self {
        let mut set = Self::empty(pieces);
        (0..pieces).for_each(|piece| {
            set.insert(PieceIndex(piece));
        });
        set
    }

    /// From a bitmap; `None` when it is longer than the blob or names a piece that is not there.
    /// A shorter one stands for missing pieces at the end.
    pub fn from_bitmap(pieces: u32, bitmap: &[u8]) -> Option<Self> {
        if bitmap.len() > pieces.div_ceil(8) as usize {
            return None;
        }
        let mut set = Self::empty(pieces);
        for (at, byte) in bitmap.iter().enumerate() {
            set.words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
        }
        set.held = set.words.iter().map(|word| word.count_ones()).sum();
        let spill =
            set.words.last().is_some_and(|w| !pieces.is_multiple_of(64) && w >> (pieces % 64) != 0);
        (!spill).then_some(set)
    }

    /// The bitmap, one bit a piece.
    pub fn to_bitmap(&self) -> Vec<u8> {
        let mut bitmap: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bitmap.truncate(self.pieces.div_ceil(8) as usize);
        bitmap
    }

    /// Adds a piece; false when it was in already or is not of this blob.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let fresh = piece.0 < self.pieces && !self.contains(piece);
        if fresh {
            self.words[piece.0 as usize / 64] |= 1 << (piece.0 % 64);
            self.held += 1;
        }
        fresh
    }

    /// Takes a piece out; false when it was not in.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let held = self.contains(piece);
        if held {
            self.words[piece.0 as usize / 64] &= !(1 << (piece.0 % 64));
            self.held -= 1;
        }
        held
    }

    /// Whether the piece is in.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        piece.0 < self.pieces && self.words[piece.0 as usize / 64] >> (piece.0 % 64) & 1 == 1
    }

    /// The set as words of 64 pieces, least significant bit first; bits past the end are zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// How many pieces are in.
    pub const fn len(&self) -> u32 {
        self.held
    }

    /// Whether none is in.
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// How many pieces the blob has.
    pub const fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Whether all are in.
    pub const fn is_full(&self) -> bool {
        self.held == self.pieces
    }

    /// The pieces that are in, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        (0..self.pieces).map(PieceIndex).filter(|piece| self.contains(*piece))
    }

    /// The pieces that are not in, in order.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        (0..self.pieces).map(PieceIndex).filter(|piece| !self.contains(*piece))
    }

    /// The pieces that are in as runs of `(first, count)`, in order.
    pub fn runs(&self) -> Vec<(PieceIndex, u32)> {
        let mut runs: Vec<(PieceIndex, u32)> = Vec::new();
        for piece in self.iter() {
            match runs.last_mut() {
                Some((first, count)) if first.0 + *count == piece.0 => *count += 1,
                _ => runs.push((piece, 1)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bitmap_reads_back(pieces in 0_u32..300, held in prop::collection::vec(0_u32..300, 0..80)) {
            let mut set = PieceSet::empty(pieces);
            for piece in held {
                set.insert(PieceIndex(piece));
            }
            prop_assert_eq!(set.iter().count() as u32, set.len());
            prop_assert_eq!(set.missing().count() as u32 + set.len(), pieces);
            let runs: u32 = set.runs().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(runs, set.len());
            prop_assert_eq!(PieceSet::from_bitmap(pieces, &set.to_bitmap()), Some(set));
        }
    }

    #[test]
    fn refuses_a_bitmap_of_another_blob() {
        assert_eq!(PieceSet::from_bitmap(9, &[0, 0b10]), None);
        assert_eq!(PieceSet::from_bitmap(8, &[0, 0]), None);
        assert_eq!(PieceSet::from_bitmap(9, &[0xff]).map(|set| set.len()), Some(8));
    }

    #[test]
    fn counts_each_piece_once() {
        let mut set = PieceSet::full(3);
        assert!(set.is_full() && !set.insert(PieceIndex(1)) && !set.insert(PieceIndex(3)));
        assert!(set.remove(PieceIndex(1)) && !set.remove(PieceIndex(1)));
        assert_eq!(set.runs(), [(PieceIndex(0), 1), (PieceIndex(2), 1)]);
    }
}
