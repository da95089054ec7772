//! How many bytes of pieces the store may keep, and how many it keeps.
//!
//! Owns two numbers; who goes when there is no room is the store's to say.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of the filesystem that is used when `store.bytes_max` is 0.
const DEFAULT_PERCENT: u64 = 80;

#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, used: AtomicU64::new(0) }
    }

    pub(super) const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts what is on disk already, even past the limit.
    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn try_reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn release(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// 80 % of the filesystem that holds `path`.
pub(super) fn default_bytes_max(path: &Path) -> io::Result<u64> {
    let filesystem = rustix::fs::statvfs(path)?;
    let bytes = filesystem.f_blocks.saturating_mul(filesystem.f_frsize);
    Ok(bytes / 100 * DEFAULT_PERCENT)
}
