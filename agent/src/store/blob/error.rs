//! What a write, a read and a wait end with.

use std::io;
use std::time::Duration;

use longshore_proto::piece::{BadPiece, PieceIndex};

/// A write that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The piece is held from now on.
    Fresh,
    /// It was held before; these bytes were for nothing.
    AlreadyHeld,
}

/// Why a piece is not stored.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Wrong bytes: blame the sender, ask another.
    #[error(transparent)]
    Bad(#[from] BadPiece),
    /// No room, and nothing that could be evicted: fail the blob.
    #[error("store is full")]
    Full,
    /// The disk failed: fail the blob.
    #[error("store: {0}")]
    Io(#[source] io::Error),
}

/// Why a piece can not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not held: wait for it.
    #[error("piece {0} is not held")]
    NotHeld(PieceIndex),
    /// It was damaged on disk and is no longer held: fetch it again.
    #[error("piece {0} was damaged on disk")]
    Damaged(PieceIndex),
    /// The disk failed.
    #[error("store: {0}")]
    Io(#[source] io::Error),
}

/// Why nobody should wait for this blob any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobFailure {
    /// The origin does not have it.
    #[error("the origin has no such blob")]
    NotFound,
    /// The origin refuses.
    #[error("the origin refuses: {0}")]
    Denied(String),
    /// Neither peers nor the origin gave anything for too long.
    #[error("no progress for {} s", .0.as_secs())]
    NoProgress(Duration),
    /// There is no room for it here.
    #[error("the store is full")]
    Full,
    /// The disk failed.
    #[error("the store failed: {0}")]
    Store(String),
}
