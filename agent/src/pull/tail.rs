//! A blob's bytes in order, as they become verified.
//!
//! Owns a client's place in a blob. It hands out verified bytes only, so the last ones too wait
//! for their proof. While it waits it holds the cursor at its piece; dropped, it takes the cursor
//! away. A wait ends with bytes, with the blob's failure, or with the bound on standing still.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use longshore_proto::ByteRange;
use longshore_proto::piece::PieceIndex;
use tokio::sync::watch;

use super::puller::Puller;
use crate::store::{BlobFailure, ReadError, StoredBlob};

/// Damaged pieces that one reader has fetched again before it gives up: a disk that damages more
/// is broken.
const DAMAGED_MAX: u32 = 8;

static CLIENTS: AtomicU64 = AtomicU64::new(1);

/// A reader of a blob that may still be on its way.
#[derive(Debug)]
pub struct Tail {
    puller: Puller,
    blob: Arc<StoredBlob>,
    changes: watch::Receiver<u64>,
    client: u64,
    position: u64,
    end: u64,
    waiting: bool,
    damaged: u32,
}

/// Why no more bytes come: hang up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// The blob failed.
    #[error(transparent)]
    Failed(#[from] BlobFailure),
    /// The disk did.
    #[error("store: {0}")]
    Store(String),
}

impl Tail {
    /// Reads `range`, or nothing where it is `None` (an empty blob).
    pub(super) fn new(puller: Puller, blob: Arc<StoredBlob>, range: Option<ByteRange>) -> Self {
        let changes = blob.changes();
        let client = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let (position, end) = range.map_or((0, 0), |range| (range.offset(), range.end()));
        Self { puller, blob, changes, client, position, end, waiting: false, damaged: 0 }
    }

    /// The next bytes, at most a piece; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TailError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let piece = self.piece();
        loop {
            self.changes.mark_unchanged();
            match self.blob.read(piece).await {
                Ok(bytes) => return Ok(Some(self.advance(piece, bytes))),
                Err(ReadError::NotHeld(_)) => self.wait(piece).await?,
                Err(ReadError::Damaged(_)) if self.damaged < DAMAGED_MAX => {
                    self.damaged += 1;
                    self.puller.fetch_again(&self.blob);
                }
                Err(error) => return Err(TailError::Store(error.to_string())),
            }
        }
    }

    fn piece(&self) -> PieceIndex {
        let list = &self.blob.list().list;
        list.piece_at(self.position).expect("the range was resolved against the blob's size")
    }

    fn advance(&mut self, piece: PieceIndex, bytes: Bytes) -> Bytes {
        let start = self.blob.list().list.range(piece).map_or(0, |range| range.offset());
        let from = (self.position - start) as usize;
        let to = (self.end - start).min(bytes.len() as u64) as usize;
        self.position = start + to as u64;
        if self.waiting && self.position >= self.end {
            self.stop_waiting();
        }
        bytes.slice(from..to)
    }

    async fn wait(&mut self, piece: PieceIndex) -> Result<(), TailError> {
        if let Some(failure) = self.blob.failure() {
            return Err(failure.into());
        }
        self.waiting = true;
        let digest = self.blob.digest();
        self.puller.fetcher().cursor(digest, self.client, Some(piece));
        let patience = self.puller.patience();
        if tokio::time::timeout(patience, self.until_held(piece)).await.is_ok() {
            return Ok(());
        }
        let failure = BlobFailure::NoProgress(patience);
        self.puller.note_failure(digest, failure.clone());
        Err(failure.into())
    }

    /// Until the piece is here, or the blob has failed.
    async fn until_held(&mut self, piece: PieceIndex) {
        while !self.blob.holds(piece) && self.blob.failure().is_none() {
            // The sender lives in the blob, which is held here.
            let _ = self.changes.changed().await;
        }
    }

    fn stop_waiting(&mut self) {
        self.waiting = false;
        self.puller.fetcher().cursor(self.blob.digest(), self.client, None);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if self.waiting {
            self.stop_waiting();
        }
    }
}

/// How long a client may stand at one piece: the swarm's own measures against a stall come first.
pub(super) fn patience(stall_timeout: Duration) -> Duration {
    /// Time for the extra read itself: 4 MiB at 2 Mbit/s.
    const EXTRA_READ: Duration = Duration::from_secs(20);
    stall_timeout * 2 + EXTRA_READ
}
