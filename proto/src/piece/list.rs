//! A piece list: everything that is needed to verify any piece of one blob.

use std::fmt;

use super::chain::{Chain, STATE_INTERVAL_BYTES};
use crate::{Algorithm, ByteRange, Digest};

/// Longest piece that anyone asks for or serves: 16 MiB.
pub const PIECE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Blobs up to this size have pieces of 256 KiB, so that a small pool still has many.
const SMALL_BLOB_BYTES: u64 = 16 * 1024 * 1024;
/// Blobs over this size have pieces of 4 MiB.
const LARGE_BLOB_BYTES: u64 = 1024 * 1024 * 1024;

/// The piece length for a blob of `size` bytes: 256 KiB, 1 MiB or 4 MiB. It depends on nothing
/// else, so that images which share a layer share its pieces.
pub const fn piece_bytes_for(size: u64) -> u64 {
    if size <= SMALL_BLOB_BYTES {
        STATE_INTERVAL_BYTES
    } else if size <= LARGE_BLOB_BYTES {
        4 * STATE_INTERVAL_BYTES
    } else {
        16 * STATE_INTERVAL_BYTES
    }
}

/// Position of a piece within its blob, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub u32);

/// The chaining values of one blob at its piece boundaries.
///
/// It verifies pieces in any order and in parallel, and reads and writes nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceList {
    digest: Digest,
    size: u64,
    piece_bytes: u64,
    /// Values at the starts of pieces 1, 2, …
    states: Vec<u8>,
}

/// Why parts make no piece list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPieceList {
    /// Not a multiple of the hash function's block, zero, or over [`PIECE_BYTES_MAX`].
    #[error(
        "piece length {0} is not a positive multiple of the hash block up to {PIECE_BYTES_MAX}"
    )]
    PieceLength(u64),
    /// More pieces than a `u32` counts.
    #[error("blob of {0} bytes has too many pieces")]
    TooManyPieces(u64),
    /// Not one chaining value for each boundary.
    #[error("piece list has {found} bytes of states where {expected} belong")]
    States {
        /// What came.
        found: usize,
        /// What the size and the piece length ask for.
        expected: usize,
    },
    /// An empty blob has one digest only.
    #[error("empty blob does not have the empty digest")]
    Empty,
    /// The kept interval does not divide the piece length.
    #[error("piece length {0} is not a multiple of {STATE_INTERVAL_BYTES}")]
    Interval(u64),
}

/// A piece whose bytes are not the blob's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPiece {
    /// The blob has no such piece.
    #[error("piece {0} lies outside the blob")]
    OutOfRange(PieceIndex),
    /// Not the length that this piece has.
    #[error("piece {piece} has {found} bytes instead of {expected}")]
    Length {
        /// Which one.
        piece: PieceIndex,
        /// What came.
        found: u64,
        /// What it has.
        expected: u64,
    },
    /// The hash chain does not end where it must.
    #[error("piece {0} has wrong bytes")]
    Content(PieceIndex),
}

impl PieceList {
    /// A list from its parts; `states` are the values at the starts of all pieces but the first.
    pub fn new(
        digest: Digest,
        size: u64,
        piece_bytes: u64,
        states: Vec<u8>,
    ) -> Result<Self, InvalidPieceList> {
        let algorithm = digest.algorithm();
        let whole_blocks = piece_bytes.is_multiple_of(algorithm.block_bytes() as u64);
        if piece_bytes == 0 || piece_bytes > PIECE_BYTES_MAX || !whole_blocks {
            return Err(InvalidPieceList::PieceLength(piece_bytes));
        }
        let pieces = size.div_ceil(piece_bytes);
        if u32::try_from(pieces).is_err() {
            return Err(InvalidPieceList::TooManyPieces(size));
        }
        let expected = (pieces.saturating_sub(1)) as usize * algorithm.digest_bytes();
        if states.len() != expected {
            return Err(InvalidPieceList::States { found: states.len(), expected });
        }
        if size == 0 && digest != Digest::of(algorithm, b"") {
            return Err(InvalidPieceList::Empty);
        }
        Ok(Self { digest, size, piece_bytes, states })
    }

    /// From the values kept every [`STATE_INTERVAL_BYTES`]: coarser by skipping.
    pub fn coarsen(
        digest: Digest,
        size: u64,
        piece_bytes: u64,
        kept: &[u8],
    ) -> Result<Self, InvalidPieceList> {
        if piece_bytes == 0 || !piece_bytes.is_multiple_of(STATE_INTERVAL_BYTES) {
            return Err(InvalidPieceList::Interval(piece_bytes));
        }
        let step = (piece_bytes / STATE_INTERVAL_BYTES) as usize;
        let width = digest.algorithm().digest_bytes();
        let states = kept.chunks(width).skip(step - 1).step_by(step).flatten().copied().collect();
        Self::new(digest, size, piece_bytes, states)
    }

    /// The blob's digest.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every piece but the last.
    pub const fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// How many pieces there are; an empty blob has none.
    pub const fn pieces(&self) -> u32 {
        self.size.div_ceil(self.piece_bytes) as u32
    }

    /// The chaining values, as they are signed and sent.
    pub fn states(&self) -> &[u8] {
        &self.states
    }

    /// Where a piece lies in the blob.
    pub fn range(&self, piece: PieceIndex) -> Option<ByteRange> {
        let offset = u64::from(piece.0).checked_mul(self.piece_bytes)?;
        ByteRange::new(offset, self.size.checked_sub(offset)?.min(self.piece_bytes))
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        (offset < self.size).then(|| PieceIndex((offset / self.piece_bytes) as u32))
    }

    /// Proves that `bytes` are this piece of the blob.
    pub fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> Result<(), BadPiece> {
        let range = self.range(piece).ok_or(BadPiece::OutOfRange(piece))?;
        if bytes.len() as u64 != range.length() {
            let found = bytes.len() as u64;
            return Err(BadPiece::Length { piece, found, expected: range.length() });
        }
        let mut chain = self.state_at(piece.0);
        let tail = chain.absorb(bytes);
        let right = if range.end() == self.size {
            chain.finish(tail, self.size) == self.digest
        } else {
            chain == self.state_at(piece.0 + 1)
        };
        if right { Ok(()) } else { Err(BadPiece::Content(piece)) }
    }

    /// The chaining value at the start of a piece that exists.
    fn state_at(&self, piece: u32) -> Chain {
        let algorithm = self.digest.algorithm();
        let Some(before) = (piece as usize).checked_sub(1) else {
            return Chain::initial(algorithm);
        };
        let width = algorithm.digest_bytes();
        Chain::from_bytes(algorithm, &self.states[before * width..(before + 1) * width])
            .expect("`new` checked that every boundary has its value")
    }
}

impl fmt::Debug for PieceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceList")
            .field("digest", &self.digest.fmt_short())
            .field("size", &self.size)
            .field("piece_bytes", &self.piece_bytes)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hashes `content` and makes its list at once; for tests and for blobs already in memory.
impl PieceList {
    /// The list of `content` with pieces of `piece_bytes`.
    pub fn of(
        algorithm: Algorithm,
        content: &[u8],
        piece_bytes: u64,
    ) -> Result<Self, InvalidPieceList> {
        let mut hasher = super::ChainHasher::with_interval(algorithm, piece_bytes.max(1));
        hasher.update(content);
        let hashed = hasher.finish();
        Self::new(hashed.digest, hashed.size, piece_bytes, hashed.states)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::piece::ChainHasher;

    fn algorithms() -> impl Strategy<Value = Algorithm> {
        prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)]
    }

    fn pieces(list: &PieceList, content: &[u8]) -> Vec<(PieceIndex, Vec<u8>)> {
        (0..list.pieces())
            .map(|i| {
                let range = list.range(PieceIndex(i)).unwrap();
                let bytes = content[range.offset() as usize..range.end() as usize].to_vec();
                (PieceIndex(i), bytes)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_bytes_verify_in_any_order_and_piece_length(
            algorithm in algorithms(),
            content in prop::collection::vec(any::<u8>(), 0..6000),
            blocks in 1_u64..12,
            order in any::<prop::sample::Index>(),
        ) {
            let piece_bytes = blocks * algorithm.block_bytes() as u64;
            let list = PieceList::of(algorithm, &content, piece_bytes).unwrap();
            prop_assert_eq!(list.digest(), Digest::of(algorithm, &content));
            let mut pieces = pieces(&list, &content);
            let length = pieces.len();
            if length > 0 {
                pieces.rotate_left(order.index(length));
            }
            for (index, bytes) in pieces {
                prop_assert_eq!(list.verify(index, &bytes), Ok(()));
            }
        }

        #[test]
        fn a_flipped_bit_anywhere_is_found_in_its_piece(
            algorithm in algorithms(),
            content in prop::collection::vec(any::<u8>(), 1..6000),
            blocks in 1_u64..12,
            at in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let piece_bytes = blocks * algorithm.block_bytes() as u64;
            let list = PieceList::of(algorithm, &content, piece_bytes).unwrap();
            let at = at.index(content.len());
            let mut flipped = content.clone();
            flipped[at] ^= 1_u8 << bit;
            for (index, bytes) in pieces(&list, &flipped) {
                let holds_it = list.piece_at(at as u64) == Some(index);
                let expected = if holds_it { Err(BadPiece::Content(index)) } else { Ok(()) };
                prop_assert_eq!(list.verify(index, &bytes), expected);
            }
        }
    }

    #[test]
    fn a_list_is_coarsened_by_skipping() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i * 7 % 253) as u8).collect();
        let mut hasher = ChainHasher::new(Algorithm::Sha256);
        hasher.update(&content);
        let hashed = hasher.finish();
        for factor in [1, 2, 4, 16] {
            let piece_bytes = factor * STATE_INTERVAL_BYTES;
            let coarse =
                PieceList::coarsen(hashed.digest, hashed.size, piece_bytes, &hashed.states)
                    .unwrap();
            assert_eq!(Ok(coarse), PieceList::of(Algorithm::Sha256, &content, piece_bytes));
        }
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        let list = PieceList::of(Algorithm::Sha256, &[7; 1000], 64).unwrap();
        let (digest, states) = (list.digest(), list.states().to_vec());
        let new = |size, length| PieceList::new(digest, size, length, states.clone());
        assert_eq!(new(1000, 63), Err(InvalidPieceList::PieceLength(63)));
        assert_eq!(new(1000, 0), Err(InvalidPieceList::PieceLength(0)));
        assert!(matches!(new(1025, 64), Err(InvalidPieceList::States { .. })));
        assert_eq!(new(u64::MAX, 64), Err(InvalidPieceList::TooManyPieces(u64::MAX)));
        assert_eq!(PieceList::new(digest, 0, 64, vec![]), Err(InvalidPieceList::Empty));
    }

    #[test]
    fn refuses_pieces_of_the_wrong_length_or_place() {
        let list = PieceList::of(Algorithm::Sha256, &[7; 100], 64).unwrap();
        assert_eq!(list.verify(PieceIndex(2), &[7; 64]), Err(BadPiece::OutOfRange(PieceIndex(2))));
        let short = Err(BadPiece::Length { piece: PieceIndex(1), found: 35, expected: 36 });
        assert_eq!(list.verify(PieceIndex(1), &[7; 35]), short);
    }
}
