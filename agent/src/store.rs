//! What this node holds on its disk: pieces of blobs, small content, tags and plans.
//!
//! Owns the directory `store.path`, one agent at a time. A piece is verified before it is stored;
//! nothing here trusts a disk further than the boot in which it was written, and nothing corrupt
//! is ever handed out. It never calls fsync: after SIGKILL the page cache still holds what was
//! written, after a crash of the machine everything is verified again. It starts no task; what is
//! on disk stays when it is dropped.
//!
//! ```text
//! v1/blobs/sha256-<hex>/{list,held,repositories,data}   a blob, whole or partial
//! v1/content/…  v1/tags/…  v1/plans/…                   sealed records, see `sealed`
//! v1/trash/…                                            on its way out
//! ```

mod blob;
mod budget;
mod content;
mod held;
mod metrics;
mod plans;
mod sealed;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, RepositoryName};

pub use blob::{BlobFailure, ReadError, StoredBlob, WriteError, Written};
pub use content::{CONTENT_BYTES_MAX, Content, StoredTag};
pub use metrics::StoreMetrics;
pub use plans::{PLAN_EVENTS_MAX, RELAYED_PLAN_BYTES_MAX, decode_relayed};

use budget::Budget;
use content::Records;

/// Directory of this layout; another layout gets another one.
const LAYOUT: &str = "v1";

/// Where and how much.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's directory; made when it is not there.
    pub path: PathBuf,
    /// Most bytes of pieces that are kept; 0 stands for 80 % of the filesystem.
    pub bytes_max: u64,
}

/// Why the store can not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory can not be used: give up at start.
    #[error("store.path: {path}: {source}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("store.path: {0} is in use by another agent")]
    Locked(PathBuf),
    /// The list may still change: its pieces can not be kept yet.
    #[error("piece list of {} is provisional", .0.fmt_short())]
    Provisional(Digest),
    /// The disk is full: let containerd go to the origin.
    #[error("store is full")]
    Full,
    /// The disk failed.
    #[error("store: {0}")]
    Io(#[source] io::Error),
}

/// The store. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct PieceStore(Arc<Shared>);

/// What blobs and the store share.
#[derive(Debug)]
struct Shared {
    root: PathBuf,
    boot_id: String,
    budget: Budget,
    metrics: StoreMetrics,
    blobs: Mutex<HashMap<Digest, Arc<StoredBlob>>>,
    records: Records,
    trashed: AtomicU64,
    /// Held for the advisory lock.
    _lock: File,
}

impl PieceStore {
    /// Takes the directory and reads what is there; blocks on the disk.
    ///
    /// Pieces of this boot are held at once; those of another boot only after
    /// [`StoredBlob::recover`].
    pub fn open(config: &StoreConfig, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_in_boot(config, metrics, boot_id.trim())
    }

    fn open_in_boot(
        config: &StoreConfig,
        metrics: StoreMetrics,
        boot_id: &str,
    ) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Unusable { path: config.path.clone(), source };
        let root = config.path.join(LAYOUT);
        fs::create_dir_all(&config.path).map_err(unusable)?;
        for room in ["", "blobs", "trash"] {
            private_directory(&root.join(room)).map_err(unusable)?;
        }
        let lock = lock(&config.path)?;
        let bytes_max = match config.bytes_max {
            0 => budget::default_bytes_max(&config.path).map_err(unusable)?,
            bytes => bytes,
        };
        let records = Records::open(&root).map_err(unusable)?;
        let shared = Arc::new(Shared {
            root,
            boot_id: boot_id.to_owned(),
            budget: Budget::new(bytes_max),
            metrics,
            blobs: Mutex::default(),
            records,
            trashed: AtomicU64::new(0),
            _lock: lock,
        });
        shared.empty_trash();
        shared.load_blobs().map_err(unusable)?;
        Ok(Self(shared))
    }

    /// A blob that is here, whole or partial.
    pub fn blob(&self, digest: &Digest) -> Option<Arc<StoredBlob>> {
        let blob = self.0.locked().get(digest).cloned();
        if let Some(blob) = &blob {
            blob.touch();
        }
        blob
    }

    /// The same, only to look at: it counts as no use, and must not be held.
    pub fn peek(&self, digest: &Digest) -> Option<Arc<StoredBlob>> {
        self.0.locked().get(digest).cloned()
    }

    /// The blob of `list`: the one that is here, or a new one without pieces. The repository joins
    /// those under which it is known, so `list` must come from a plan of that repository.
    pub fn open_blob(
        &self,
        list: &SignedPieceList,
        repository: &RepositoryName,
    ) -> Result<Arc<StoredBlob>, StoreError> {
        let digest = list.list.digest();
        if list.provisional {
            return Err(StoreError::Provisional(digest));
        }
        let mut blobs = self.0.locked();
        if let Some(blob) = blobs.get(&digest) {
            let usable = blob.list().list == list.list || Arc::strong_count(blob) > 1;
            if usable {
                let blob = Arc::clone(blob);
                drop(blobs);
                blob.add_repository(repository)?;
                blob.touch();
                return Ok(blob);
            }
            // Another piece length: what is held can not be spoken of in the new one's terms.
            let old = blobs.remove(&digest).expect("it was found above");
            self.0.forget(&old);
        }
        let blob = StoredBlob::create(&self.0, list, repository)?;
        blobs.insert(digest, Arc::clone(&blob));
        self.0.metrics.blobs.set(blobs.len() as i64);
        Ok(blob)
    }

    /// All blobs with their list, in no order. Holding one keeps it from being evicted.
    pub fn blobs(&self) -> Vec<Arc<StoredBlob>> {
        self.0.locked().values().cloned().collect()
    }

    /// Bytes of pieces held.
    pub fn bytes(&self) -> u64 {
        self.0.budget.used()
    }

    /// Most bytes of pieces that are kept.
    pub fn bytes_max(&self) -> u64 {
        self.0.budget.bytes_max()
    }

    /// The directory, with its layout's version.
    pub fn root(&self) -> &Path {
        &self.0.root
    }
}

impl Shared {
    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<StoredBlob>>> {
        self.blobs.lock().expect("nothing panics while it holds the table of blobs")
    }

    /// Directory of a blob.
    fn directory(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(file_name(digest))
    }

    fn load_blobs(self: &Arc<Self>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("blobs"))? {
            let path = entry?.path();
            match StoredBlob::load(self, &path) {
                Some(blob) => {
                    self.budget.add(blob.bytes_on_disk());
                    self.locked().insert(blob.digest(), blob);
                }
                None => self.discard(&path),
            }
        }
        self.metrics.blobs.set(self.locked().len() as i64);
        self.metrics.bytes.set(self.budget.used() as i64);
        Ok(())
    }

    /// Makes room for `bytes`; false when nothing more may go.
    fn reserve(&self, bytes: u64) -> bool {
        while !self.budget.try_reserve(bytes) {
            if !self.evict_one() {
                self.metrics.full.inc();
                return false;
            }
        }
        self.metrics.bytes.set(self.budget.used() as i64);
        true
    }

    fn release(&self, bytes: u64) {
        self.budget.release(bytes);
        self.metrics.bytes.set(self.budget.used() as i64);
    }

    /// Drops the blob that nobody holds and that was used longest ago; false when there is none.
    fn evict_one(&self) -> bool {
        let mut blobs = self.locked();
        // New handles come from the table alone, so a count of one stays one while it is locked.
        let idle = blobs.values().filter(|blob| Arc::strong_count(blob) == 1);
        let Some(digest) = idle.min_by_key(|blob| blob.last_used()).map(|blob| blob.digest())
        else {
            return false;
        };
        let blob = blobs.remove(&digest).expect("it was found under this lock");
        self.metrics.blobs.set(blobs.len() as i64);
        drop(blobs);
        self.metrics.evicted_blobs.inc();
        tracing::info!(digest = digest.fmt_short(), "evicted a blob");
        self.forget(&blob);
        true
    }

    fn forget(&self, blob: &StoredBlob) {
        self.discard(&self.directory(&blob.digest()));
        self.release(blob.bytes_on_disk());
    }

    /// Takes a path out of sight at once, then deletes it.
    fn discard(&self, path: &Path) {
        let count = self.trashed.fetch_add(1, Ordering::Relaxed);
        let trash = self.root.join("trash").join(count.to_string());
        if let Err(error) = fs::rename(path, &trash).and_then(|()| remove(&trash)) {
            tracing::warn!(path = %path.display(), %error, "cannot delete");
        }
    }

    fn empty_trash(&self) {
        for entry in fs::read_dir(self.root.join("trash")).into_iter().flatten().flatten() {
            if let Err(error) = remove(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot delete");
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// `sha256-<hex>`
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Layers may be private: nobody but this user reads them.
fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let unusable = |source| StoreError::Unusable { path: path.to_owned(), source };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(unusable)?;
    let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::flock(&file, operation) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(path.to_owned())),
        Err(error) => Err(unusable(error.into())),
    }
}

#[cfg(test)]
mod tests;
