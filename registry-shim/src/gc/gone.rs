//! What a dry run would have deleted by now, so that it says what a run does: what depends on it is
//! garbage, too.
//!
//! Keys are known by their hashes, eight bytes each, and as many as a run may hold. Beyond that the
//! report says less than would be freed.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use object_store::path::Path;

/// Keys that count as deleted; clones are as it was then.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    hashes: Arc<HashSet<u64>>,
    state: RandomState,
    most: usize,
}

impl Gone {
    /// Of so many keys at most.
    pub(super) fn new(most: usize) -> Self {
        Self { hashes: Arc::default(), state: RandomState::new(), most }
    }

    pub(super) fn insert(&mut self, key: &Path) {
        if self.hashes.len() < self.most {
            let hash = self.state.hash_one(key);
            Arc::make_mut(&mut self.hashes).insert(hash);
        }
    }

    pub(super) fn contains(&self, key: &Path) -> bool {
        !self.hashes.is_empty() && self.hashes.contains(&self.state.hash_one(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}
