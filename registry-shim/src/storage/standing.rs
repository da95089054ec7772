//! Which of its stores a storage stands on, where it has more than one.
//!
//! Owns the words and no state: `regions` decides and answers. Whatever promises more than the
//! layout does (immutable tags, exact quota, collection) asks here first.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use longshore_proto::RepositoryName;
use object_store::path::Path;

use super::{Capabilities, Pointer, Presigned};

/// Where a storage reads and writes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// On its primary store: every promise holds.
    Primary,
    /// Its primary store is away. What was acknowledged can be read, what is written is written
    /// to the replica and comes later to the primary; other instances may not have noticed yet.
    FailedOver {
        /// Unix milliseconds.
        since_ms: u64,
    },
    /// The primary store is back, and writes made without it are still being brought there.
    CatchingUp {
        /// Unix milliseconds of the failover.
        since_ms: u64,
    },
}

impl StoreState {
    /// Whether every promise holds. If not: quota is approximate, an immutable tag is refused and
    /// a collection waits.
    pub const fn is_primary(self) -> bool {
        matches!(self, Self::Primary)
    }
}

/// Answers for a storage that has a replica.
pub trait Standing: Debug + Send + Sync {
    /// Where it reads and writes now.
    fn state(&self) -> StoreState;

    /// How often it has left its primary: what was counted there before may have grown elsewhere.
    fn departures(&self) -> u64;

    /// What the store where it writes now can do, and what no store can do for it now.
    fn capabilities(&self) -> Capabilities;

    /// Whether what can be read now may be older than what was acknowledged: a tag or a list may
    /// have changed.
    fn may_be_stale(&self) -> bool;

    /// Whether something of `repository` may have been acknowledged that cannot be read now:
    /// then its absence is no answer.
    fn may_lack(&self, repository: &RepositoryName) -> bool;

    /// Deletes on the primary store or, where it does not take that now, not at all.
    fn delete_on_primary<'a>(
        self: Arc<Self>,
        key: &'a Path,
    ) -> BoxFuture<'a, object_store::Result<()>>;

    /// A URL of the blob's bytes at a store that clients reach.
    fn presign<'a>(&'a self, pointer: &'a Pointer) -> BoxFuture<'a, Option<Presigned>>;

    /// Whether any blob may be answered with a redirect.
    fn redirects(&self) -> bool;

    /// Changes with the store that redirects lead to.
    fn redirect_epoch(&self) -> u64;
}
