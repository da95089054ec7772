//! One blob on disk: a sparse file, and which of its pieces are in it.
//!
//! Owns the blob's directory. A piece is verified before it is written and its bit is set after;
//! a piece of an earlier process is verified once more when it is first read. What is damaged is
//! dropped and has to be fetched again. Reads and writes run on the blocking pool.

mod error;
mod pieces;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use longshore_proto::piece::{PieceIndex, PieceList, PieceSet};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{KeyId, Signature};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, RepositoryName};
use prost::Message as _;
use tokio::sync::watch;

pub use self::error::{BlobFailure, ReadError, WriteError, Written};
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
