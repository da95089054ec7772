//! Pieces of a blob, and how one is verified alone.
//!
//! The origin keeps the hash function's chaining value at every piece boundary. A piece is right
//! when compressing it from the value at its start gives the value at its end; the last one must
//! finish in the blob's digest. All pieces right *is* the OCI digest, so one pass serves both.
//! A list is only as good as its signer: an unsigned one would accept any bytes in the middle.

mod chain;
mod list;
mod set;

pub use chain::{ChainHasher, HashedBlob, STATE_INTERVAL_BYTES, SavedChain};
pub use list::{
    BadPiece, InvalidPieceList, PIECE_BYTES_MAX, PieceIndex, PieceList, piece_bytes_for,
};
pub use set::PieceSet;
