//! Pieces into and out of a blob's file, on the blocking pool.
//!
//! Owns the order of things: verified, room reserved, written, then the bit. Must never set the bit
//! of bytes that it did not verify, nor keep the room of a piece that it dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use longshore_proto::piece::{PieceIndex, PieceSet};

use super::{ReadError, StoredBlob, WriteError, Written, is_full};
use crate::store::{Shared, held};

impl StoredBlob {
    pub(super) fn write_now(&self, piece: PieceIndex, bytes: &[u8]) -> Result<Written, WriteError> {
        if self.holds(piece) {
            return Ok(Written::AlreadyHeld);
        }
        self.list.list.verify(piece, bytes)?;
        let store = self.store()?;
        let range = self.list.list.range(piece).expect("a verified piece exists");
        if !store.reserve(range.length()) {
            return Err(WriteError::Full);
        }
        if let Err(error) = self.write_data(&store, range.offset(), bytes) {
            store.release(range.length());
            return Err(error);
        }
        match self.hold(piece) {
            Ok(Written::Fresh) => {
                store.metrics.pieces_verified.inc();
                self.bump();
                Ok(Written::Fresh)
            }
            other => {
                store.release(range.length());
                other
            }
        }
    }

    /// Writes; when the disk is full, evicts what may go and tries again.
    fn write_data(&self, store: &Shared, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        loop {
            let written = File::options()
                .write(true)
                .open(self.data())
                .and_then(|file| file.write_all_at(bytes, offset));
            match written {
                Err(error) if is_full(&error) => {
                    store.metrics.full.inc();
                    if !store.evict_one() {
                        return Err(WriteError::Full);
                    }
                }
                other => return other.map_err(WriteError::Io),
            }
        }
    }

    fn hold(&self, piece: PieceIndex) -> Result<Written, WriteError> {
        let mut state = self.locked();
        if !state.held.insert(piece) {
            return Ok(Written::AlreadyHeld);
        }
        let bits = union(&state.held, &state.claimed);
        if let Err(error) = held::write_bit(&self.directory.join("held"), &bits, piece) {
            state.held.remove(piece);
            return Err(if is_full(&error) { WriteError::Full } else { WriteError::Io(error) });
        }
        if state.claimed.remove(piece) {
            // Counted when it was found; the caller has reserved it once more.
            drop(state);
            let length = self.list.list.range(piece).map_or(0, |range| range.length());
            self.store()?.release(length);
        }
        Ok(Written::Fresh)
    }

    pub(super) fn read_now(&self, piece: PieceIndex) -> Result<Bytes, ReadError> {
        let unproven = self.locked().unproven.contains(piece);
        let bytes = match self.read_data(piece) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.drop_piece(piece);
                let gone =
                    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
                return Err(if gone { ReadError::Damaged(piece) } else { ReadError::Io(error) });
            }
        };
        if unproven {
            if self.list.list.verify(piece, &bytes).is_err() {
                self.drop_piece(piece);
                return Err(ReadError::Damaged(piece));
            }
            self.locked().unproven.remove(piece);
        }
        self.touch();
        Ok(bytes.into())
    }

    fn read_data(&self, piece: PieceIndex) -> io::Result<Vec<u8>> {
        let range = self.list.list.range(piece).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = vec![0; range.length() as usize];
        File::open(self.data())?.read_exact_at(&mut bytes, range.offset())?;
        Ok(bytes)
    }

    fn drop_piece(&self, piece: PieceIndex) {
        let digest = self.digest();
        tracing::warn!(digest = digest.fmt_short(), %piece, "dropped a piece damaged on disk");
        let mut state = self.locked();
        state.unproven.remove(piece);
        if !state.held.remove(piece) {
            return;
        }
        let bits = union(&state.held, &state.claimed);
        // Left set, the bit would cost one more verification after a restart, nothing else.
        let _ = held::write_bit(&self.directory.join("held"), &bits, piece);
        drop(state);
        if let Ok(store) = self.store() {
            store.metrics.corrupt_pieces.inc();
            store.release(self.list.list.range(piece).map_or(0, |range| range.length()));
        }
        self.bump();
    }

    pub(super) fn recover_now(&self) {
        let Ok(store) = self.store() else { return };
        let claimed = self.locked().claimed.clone();
        for piece in claimed.iter() {
            let right = self
                .read_data(piece)
                .is_ok_and(|bytes| self.list.list.verify(piece, &bytes).is_ok());
            let mut state = self.locked();
            if !state.claimed.remove(piece) {
                continue;
            }
            if right {
                state.held.insert(piece);
                store.metrics.resumed_pieces.inc();
            } else {
                store.metrics.corrupt_pieces.inc();
                store.release(self.list.list.range(piece).map_or(0, |range| range.length()));
            }
            drop(state);
            self.bump();
        }
        let state = self.locked();
        let path = self.directory.join("held");
        if let Err(error) = held::write(&path, &state.held, &store.boot_id) {
            tracing::warn!(digest = self.digest().fmt_short(), %error, "cannot note the boot");
        }
    }
}

fn union(a: &PieceSet, b: &PieceSet) -> PieceSet {
    let mut union = a.clone();
    b.iter().for_each(|piece| {
        union.insert(piece);
    });
    union
}
