//! Why a push may not go on, by what its client should do.

use bytesize::ByteSize;

use crate::storage::{Project, StorageError};

/// A quota that does not let a push in.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The charges leave no room: delete something, or ask for more.
    #[error(
        "quota of project {project} is used up: {used_text} ({used} bytes) used \
         of {limit_text} ({limit} bytes), {needed_text} ({needed} bytes) more needed",
        used_text = human(*used),
        limit_text = human(*limit),
        needed_text = human(*needed)
    )]
    Denied {
        /// Whose.
        project: Project,
        /// Bytes of its charges, counted after the push asked.
        used: u64,
        /// Bytes that it may have.
        limit: u64,
        /// Bytes that the push adds.
        needed: u64,
    },
    /// Pushes under way hold what is left: try again, some of them may fail.
    #[error(
        "quota of project {project} is held by pushes that have not ended: \
         {needed_text} ({needed} bytes) more needed",
        needed_text = human(*needed)
    )]
    Held {
        /// Whose.
        project: Project,
        /// Bytes that the push adds.
        needed: u64,
    },
    /// The store does not say what is used: try again.
    #[error("quota of project {project} cannot be checked: storage is unavailable")]
    Unavailable {
        /// Whose.
        project: Project,
    },
    /// The store failed while it was asked for a charge.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// `1.5 GiB`
pub(super) fn human(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
