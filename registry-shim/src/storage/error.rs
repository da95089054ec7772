//! What can go wrong with the store, by what the caller should do.

use std::error::Error as _;

use longshore_proto::Digest;

/// A store that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No room is left: nothing was lost, free some and try again.
    #[error("storage is full")]
    Full,
    /// The store failed; the same call may succeed later.
    #[error("storage failed: {0}")]
    Unavailable(#[source] object_store::Error),
    /// The collector is at work on just this, or the call took longer than it leaves things alone:
    /// the same call succeeds in a moment.
    #[error("collection is at work on this")]
    Contended,
    /// The tag may not be moved or deleted: the caller asked for what is not allowed.
    #[error("tag is immutable and names {digest}")]
    TagImmutable {
        /// What it names for good.
        digest: Digest,
    },
    /// The store cannot keep the promise at this moment; the same call may succeed later.
    #[error("{0}")]
    NotNow(&'static str),
    /// A record is there and means nothing: an operator has to look.
    #[error("object {key} is corrupt: {reason}")]
    Corrupt {
        /// Which one.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<object_store::Error> for StorageError {
    fn from(error: object_store::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Unavailable(error) }
    }
}

impl StorageError {
    /// The task that read was ended before its answer.
    pub(crate) fn lost_read() -> Self {
        let source = "the read was given up".into();
        Self::Unavailable(object_store::Error::Generic { store: "cache", source })
    }

    pub(super) fn corrupt(key: &object_store::path::Path, reason: impl ToString) -> Self {
        Self::Corrupt { key: key.to_string(), reason: reason.to_string() }
    }
}

/// Looks for ENOSPC or EDQUOT among the causes.
pub(crate) fn is_full(error: &object_store::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| matches!(io.kind(), StorageFull | QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_full_disk_from_a_broken_one() {
        let failed = |kind: std::io::ErrorKind| {
            let source = Box::new(std::io::Error::from(kind));
            StorageError::from(object_store::Error::Generic { store: "test", source })
        };
        assert!(matches!(failed(std::io::ErrorKind::StorageFull), StorageError::Full));
        let broken = failed(std::io::ErrorKind::PermissionDenied);
        assert!(matches!(broken, StorageError::Unavailable(_)));
    }
}
