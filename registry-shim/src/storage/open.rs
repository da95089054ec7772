//! `storage.url`: which store, and how it is opened.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

/// A store that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    /// `file:///dir`
    Directory(PathBuf),
    /// `memory:`
    Memory,
}

/// Not the URL of a store that is built in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not file:///DIRECTORY or memory:")]
pub struct InvalidStorageUrl;

impl FromStr for StorageUrl {
    type Err = InvalidStorageUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStorageUrl> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        let path = PathBuf::from(text.strip_prefix("file://").ok_or(InvalidStorageUrl)?);
        if path.is_absolute() { Ok(Self::Directory(path)) } else { Err(InvalidStorageUrl) }
    }
}

impl StorageUrl {
    /// Whether only this machine can read the store, so that keys may be made at first start.
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Directory(_) | Self::Memory => true,
        }
    }

    /// Opens the store; a directory is made when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(&self) -> std::io::Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Memory => Ok(Arc::new(InMemory::new())),
            Self::Directory(path) => {
                std::fs::create_dir_all(path)?;
                // An acknowledged push survives a power cut: the default would not sync.
                let store =
                    LocalFileSystem::new_with_prefix(path).map_err(std::io::Error::other)?;
                Ok(Arc::new(store.with_fsync(true)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_stores_that_are_built_in() {
        assert_eq!("memory:".parse(), Ok(StorageUrl::Memory));
        assert_eq!("file:///a/b".parse(), Ok(StorageUrl::Directory("/a/b".into())));
        for bad in ["", "a", "file://a", "s3://bucket", "memory"] {
            assert_eq!(bad.parse::<StorageUrl>(), Err(InvalidStorageUrl), "{bad}");
        }
    }
}
