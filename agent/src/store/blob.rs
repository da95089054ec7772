//! One blob on disk: a sparse file, and which of its pieces are in it.
//!
//! Owns the blob's directory. A piece is verified before it is written and its bit is set after;
//! a piece of an earlier process is verified once more when it is first read. What is damaged is
//! dropped and has to be fetched again. Reads and writes run on the blocking pool.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longshore_proto::piece::{BadPiece, PieceIndex, PieceList, PieceSet};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{KeyId, Signature};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, RepositoryName};
use prost::Message as _;
use tokio::sync::watch;

use super::{Shared, StoreError, held, sealed};

/// How much younger a use must be than the one on disk to be written there.
const LAST_USED_STEP: Duration = Duration::from_secs(60);

/// A blob, whole or partial. Holding it keeps it on disk.
pub struct StoredBlob {
    store: Weak<Shared>,
    directory: PathBuf,
    list: SignedPieceList,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Unix milliseconds.
    last_used: AtomicU64,
    recovery: tokio::sync::Mutex<()>,
}

struct State {
    held: PieceSet,
    /// Written in another boot, and not yet verified in this one.
    claimed: PieceSet,
    /// Held since an earlier process, and not yet read in this one.
    unproven: PieceSet,
    repositories: Vec<RepositoryName>,
    failure: Option<BlobFailure>,
}

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

impl StoredBlob {
    /// The list, with the origin's word for it.
    pub const fn list(&self) -> &SignedPieceList {
        &self.list
    }

    /// The blob's name.
    pub const fn digest(&self) -> Digest {
        self.list.list.digest()
    }

    /// The blob's size in bytes.
    pub const fn size(&self) -> u64 {
        self.list.list.size()
    }

    /// The repositories whose signed plans listed it, oldest first.
    pub fn repositories(&self) -> Vec<RepositoryName> {
        self.locked().repositories.clone()
    }

    /// The pieces held.
    pub fn held(&self) -> PieceSet {
        self.locked().held.clone()
    }

    /// Whether a piece is held.
    pub fn holds(&self, piece: PieceIndex) -> bool {
        self.locked().held.contains(piece)
    }

    /// Whether all pieces are held.
    pub fn is_whole(&self) -> bool {
        self.locked().held.is_full()
    }

    /// Bytes of the pieces held.
    pub fn held_bytes(&self) -> u64 {
        bytes_of(&self.list.list, &self.locked().held)
    }

    /// Verifies `bytes`, stores them as `piece` and wakes those who wait.
    pub async fn write(
        self: &Arc<Self>,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Result<Written, WriteError> {
        let blob = Arc::clone(self);
        blocking(move || blob.write_now(piece, &bytes)).await.map_err(WriteError::Io)?
    }

    /// The bytes of a piece that is held.
    pub async fn read(self: &Arc<Self>, piece: PieceIndex) -> Result<Bytes, ReadError> {
        if !self.holds(piece) {
            return Err(ReadError::NotHeld(piece));
        }
        let blob = Arc::clone(self);
        blocking(move || blob.read_now(piece)).await.map_err(ReadError::Io)?
    }

    /// Whether another boot wrote something that is not verified yet.
    pub fn needs_recovery(&self) -> bool {
        !self.locked().claimed.is_empty()
    }

    /// Verifies what another boot wrote; a no-op where there is nothing of that kind. Whoever is
    /// about to fetch a blob calls it first, so that nothing is fetched twice.
    pub async fn recover(self: &Arc<Self>) {
        let _alone = self.recovery.lock().await;
        if self.locked().claimed.is_empty() {
            return;
        }
        let blob = Arc::clone(self);
        if let Err(error) = blocking(move || blob.recover_now()).await {
            tracing::warn!(digest = self.digest().fmt_short(), %error, "recovery failed");
        }
    }

    /// Bumps whenever a piece is held, or dropped, and at failure.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ends the wait of all who wait.
    pub fn fail(&self, why: BlobFailure) {
        self.locked().failure = Some(why);
        self.bump();
    }

    /// Why nobody should wait, until the next want.
    pub fn failure(&self) -> Option<BlobFailure> {
        self.locked().failure.clone()
    }

    /// A new want begins.
    pub fn clear_failure(&self) {
        self.locked().failure = None;
    }

    pub(super) fn create(
        store: &Arc<Shared>,
        list: &SignedPieceList,
        repository: &RepositoryName,
    ) -> Result<Arc<Self>, StoreError> {
        let directory = store.directory(&list.list.digest());
        let pieces = PieceSet::empty(list.list.pieces());
        let blob = Self::new(store, directory, list.clone(), pieces.clone());
        let made = fs::create_dir(&blob.directory).and_then(|()| {
            File::create(blob.data())?.set_len(list.list.size())?;
            sealed::write(&blob.directory.join("list"), &list.to_wire().encode_to_vec())?;
            held::write(&blob.directory.join("held"), &pieces, &store.boot_id)
        });
        if let Err(error) = made {
            store.discard(&blob.directory);
            return Err(store_error(error));
        }
        blob.add_repository(repository)?;
        blob.touch();
        Ok(Arc::new(blob))
    }

    /// Reads a blob's directory; `None` where it is damaged.
    pub(super) fn load(store: &Arc<Shared>, directory: &Path) -> Option<Arc<Self>> {
        let list = read_list(&directory.join("list"))?;
        if directory != store.directory(&list.list.digest()) {
            return None;
        }
        let metadata = fs::metadata(directory.join("data")).ok()?;
        let pieces = list.list.pieces();
        let found = held::read(&directory.join("held"), pieces, &store.boot_id)?;
        if metadata.len() != list.list.size() {
            return None;
        }
        let empty = PieceSet::empty(pieces);
        let (trusted, claimed) =
            if found.same_boot { (found.pieces, empty) } else { (empty, found.pieces) };
        store.metrics.resumed_pieces.inc_by(u64::from(trusted.len()));
        let blob = Self::new(store, directory.to_owned(), list, claimed);
        {
            let mut state = blob.locked();
            state.unproven = trusted.clone();
            state.held = trusted;
            state.repositories = read_repositories(&directory.join("repositories"))?;
        }
        let used = metadata.modified().unwrap_or(UNIX_EPOCH);
        blob.last_used.store(unix_ms(used), Ordering::Relaxed);
        Some(Arc::new(blob))
    }

    fn new(
        store: &Arc<Shared>,
        directory: PathBuf,
        list: SignedPieceList,
        claimed: PieceSet,
    ) -> Self {
        let empty = PieceSet::empty(list.list.pieces());
        let state = State {
            held: empty.clone(),
            unproven: empty,
            claimed,
            repositories: Vec::new(),
            failure: None,
        };
        Self {
            store: Arc::downgrade(store),
            directory,
            list,
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            last_used: AtomicU64::new(0),
            recovery: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn add_repository(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        let mut state = self.locked();
        if state.repositories.contains(repository) {
            return Ok(());
        }
        state.repositories.push(repository.clone());
        let names: Vec<&str> = state.repositories.iter().map(RepositoryName::as_str).collect();
        let path = self.directory.join("repositories");
        sealed::write(&path, names.join("\n").as_bytes()).map_err(store_error)
    }

    /// Notes a use, for eviction.
    pub(super) fn touch(&self) {
        let now = SystemTime::now();
        let before = self.last_used.swap(unix_ms(now), Ordering::Relaxed);
        if unix_ms(now).saturating_sub(before) > LAST_USED_STEP.as_millis() as u64 {
            // The time only orders evictions after a restart: not worth an error.
            let _ = File::options()
                .write(true)
                .open(self.data())
                .and_then(|file| file.set_modified(now));
        }
    }

    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// What the budget counts for this blob.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let state = self.locked();
        bytes_of(&self.list.list, &state.held) + bytes_of(&self.list.list, &state.claimed)
    }

    fn write_now(&self, piece: PieceIndex, bytes: &[u8]) -> Result<Written, WriteError> {
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

    fn read_now(&self, piece: PieceIndex) -> Result<Bytes, ReadError> {
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

    fn recover_now(&self) {
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

    fn store(&self) -> Result<Arc<Shared>, WriteError> {
        let closed = || WriteError::Io(io::Error::other("the store is closed"));
        self.store.upgrade().ok_or_else(closed)
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn bump(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a blob's state")
    }
}

impl fmt::Debug for StoredBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.locked();
        f.debug_struct("StoredBlob")
            .field("digest", &self.digest().fmt_short())
            .field("held", &state.held.len())
            .field("pieces", &state.held.pieces())
            .finish_non_exhaustive()
    }
}

/// Runs `work` where blocking is allowed; an error only when the runtime goes down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

fn union(a: &PieceSet, b: &PieceSet) -> PieceSet {
    let mut union = a.clone();
    b.iter().for_each(|piece| {
        union.insert(piece);
    });
    union
}

fn bytes_of(list: &PieceList, pieces: &PieceSet) -> u64 {
    pieces.iter().filter_map(|piece| list.range(piece)).map(|range| range.length()).sum()
}

fn read_list(path: &Path) -> Option<SignedPieceList> {
    let message = rpc::PieceList::decode(&*sealed::read(path)?).ok()?;
    let list = PieceList::new(
        message.digest.parse().ok()?,
        message.size,
        message.piece_length,
        message.states.to_vec(),
    );
    let signature = message.signature?;
    let signature =
        Signature { kid: KeyId::from_wire(&signature.kid), bytes: signature.signature.to_vec() };
    Some(SignedPieceList { list: list.ok()?, provisional: message.provisional, signature })
}

fn read_repositories(path: &Path) -> Option<Vec<RepositoryName>> {
    let text = String::from_utf8(sealed::read(path)?).ok()?;
    text.lines().map(|line| line.parse().ok()).collect()
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}

/// No space, over quota, or over the process's file size limit.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

pub(super) fn store_error(error: io::Error) -> StoreError {
    if is_full(&error) { StoreError::Full } else { StoreError::Io(error) }
}
