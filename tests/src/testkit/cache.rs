//! The lab's cache: slow things made once, keyed by version, safe to delete at any time.
//!
//! An entry is a directory that appears whole by a rename; who makes it holds a file lock, so that
//! concurrent labs make it once. A half-made entry of a crashed run is removed by the next maker.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::error::{Context, LabError, Result};
use super::sweep::remove_tree;

/// Overrides where the cache lies.
const VARIABLE: &str = "LONGSHORE_LAB_CACHE";
/// Below the home directory.
const DEFAULT: &str = ".cache/longshore-lab";

/// The cache's directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `${LONGSHORE_LAB_CACHE:-~/.cache/longshore-lab}`, made when missing.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os(VARIABLE) {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => std::env::home_dir()
                .ok_or_else(|| LabError::Unexpected(format!("no home directory: set {VARIABLE}")))?
                .join(DEFAULT),
        };
        Self::at(root)
    }

    /// A cache elsewhere.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).during(|| root.display().to_string())?;
        Ok(Self { root })
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory of the cache that is not keyed: private configuration, lists, downloads.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).during(|| path.display().to_string())?;
        Ok(path)
    }

    /// Waits until no other process holds the lock of this name, and holds it until dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let path = self.directory("locks")?.join(name);
        let file = File::create(&path).during(|| path.display().to_string())?;
        file.lock().during(|| format!("the lock {}", path.display()))?;
        Ok(file)
    }

    /// As [`Cache::lock`], or none at once when another process holds it.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<File>> {
        let path = self.directory("locks")?.join(name);
        let file = File::create(&path).during(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => {
                Err(LabError::Io { what: format!("the lock {}", path.display()), source })
            }
        }
    }

    /// The entry `kind/key`, made by `make` in an empty directory when it is missing. Blocks.
    pub fn entry(
        &self,
        kind: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.directory(kind)?.join(key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let _held = self.lock(&format!("{kind}-{key}"))?;
        if entry.is_dir() {
            return Ok(entry);
        }
        let half = self.directory(kind)?.join(format!(".{key}.half"));
        remove_tree(&half).during(|| half.display().to_string())?;
        fs::create_dir(&half).during(|| half.display().to_string())?;
        make(&half)?;
        fs::rename(&half, &entry).during(|| entry.display().to_string())?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_made_once_and_never_half() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(root.path().to_owned()).expect("a cache");
        let failed = cache.entry("kind", "key", |half| {
            fs::write(half.join("part"), "1").during(|| "part".to_owned())?;
            Err(LabError::Unexpected("broken".to_owned()))
        });
        assert!(failed.is_err());
        let made = cache.entry("kind", "key", |half| {
            assert!(!half.join("part").exists(), "the half-made entry was not removed");
            fs::write(half.join("whole"), "1").during(|| "whole".to_owned())
        });
        let again = cache.entry("kind", "key", |_| panic!("it exists"));
        assert_eq!(made.expect("made"), again.expect("found"));
    }
}
