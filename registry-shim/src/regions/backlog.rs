//! What this instance has written and the replica does not have yet.
//!
//! In memory, each key once, bounded: a repository that does not fit is repaired as a whole later.
//! What an instance that dies has owed is known from its marks ([`super::marks`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::home::Home;
use super::key;

/// Keys that wait at once, some 200 bytes each.
const KEYS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    inner: Mutex<Inner>,
    /// Something new is owed.
    pub(super) grown: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<Path, Item>,
    /// Per repository: keys that wait, and writes under way.
    scopes: HashMap<String, usize>,
    /// Repositories that are owed as a whole.
    repairs: BTreeSet<String>,
    /// Keys of no repository did not fit: all must be compared.
    all: bool,
    version: u64,
}

/// A key that waits.
#[derive(Clone, Debug)]
struct Item {
    scope: Option<String>,
    since: Instant,
    version: u64,
}

/// A key to copy now.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) key: Path,
    version: u64,
}

/// A write under way. However it ends, and if nobody waits for its end, the copy is owed; unless
/// it is known that nothing was written.
#[derive(Debug)]
pub(super) struct Owed {
    home: Arc<Home>,
    key: Path,
    scope: Option<String>,
    forgotten: bool,
}

impl Backlog {
    /// A write of the key begins.
    pub(super) fn owe(home: &Arc<Home>, key: &Path, scope: Option<String>) -> Owed {
        if let Some(scope) = &scope {
            *home.backlog.lock().scopes.entry(scope.clone()).or_default() += 1;
        }
        Owed { home: home.clone(), key: key.clone(), scope, forgotten: false }
    }

    /// Whether the replica may lack something of the repository that this instance wrote.
    pub(super) fn owes(&self, scope: &str) -> bool {
        let inner = self.lock();
        inner.scopes.contains_key(scope) || inner.repairs.contains(scope)
    }

    /// How many keys wait, and since when the oldest does.
    pub(super) fn waiting(&self) -> (usize, Option<Instant>) {
        let inner = self.lock();
        (inner.keys.len(), inner.keys.values().map(|item| item.since).min())
    }

    /// Up to `max` of the oldest keys, in the order in which they are to be copied.
    pub(super) fn due(&self, max: usize) -> Vec<Due> {
        let inner = self.lock();
        let mut oldest: Vec<(&Path, &Item)> = inner.keys.iter().collect();
        oldest.sort_by_key(|(_, item)| item.since);
        oldest.truncate(max);
        let due = |(key, item): (&Path, &Item)| Due { key: key.clone(), version: item.version };
        let mut due: Vec<Due> = oldest.into_iter().map(due).collect();
        due.sort_by_key(|due| key::rank(&due.key));
        due
    }

    /// The copy is made. A key written meanwhile is still owed.
    pub(super) fn paid(&self, due: &Due) {
        let mut inner = self.lock();
        if inner.keys.get(&due.key).is_some_and(|item| item.version == due.version)
            && let Some(item) = inner.keys.remove(&due.key)
        {
            inner.leave(item.scope.as_deref());
        }
    }

    /// Repositories to repair as a whole.
    pub(super) fn repairs(&self) -> Vec<String> {
        self.lock().repairs.iter().cloned().collect()
    }

    pub(super) fn repaired(&self, scope: &str) {
        self.lock().repairs.remove(scope);
    }

    /// Whether all must be compared; asking takes the wish away.
    pub(super) fn take_all(&self) -> bool {
        std::mem::take(&mut self.lock().all)
    }

    fn push(&self, key: &Path, scope: Option<String>) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        if let Some(item) = inner.keys.get_mut(key) {
            item.version = version;
            inner.leave(scope.as_deref());
        } else if inner.keys.len() >= KEYS_MAX {
            match &scope {
                Some(scope) => {
                    inner.repairs.insert(scope.clone());
                }
                None => inner.all = true,
            }
            inner.leave(scope.as_deref());
        } else {
            let item = Item { scope, since: Instant::now(), version };
            inner.keys.insert(key.clone(), item);
        }
        drop(inner);
        self.grown.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn leave(&mut self, scope: Option<&str>) {
        let Some(scope) = scope else { return };
        if let Some(waiting) = self.scopes.get_mut(scope) {
            *waiting -= 1;
            if *waiting == 0 {
                self.scopes.remove(scope);
            }
        }
    }
}

impl Owed {
    /// Nothing was written.
    pub(super) fn forget(mut self) {
        self.forgotten = true;
        self.home.backlog.lock().leave(self.scope.as_deref());
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.forgotten && !key::is_local(&self.key) && !key::is_transient(&self.key) {
            let scope = self.scope.take();
            self.home.backlog.push(&self.key, scope);
        }
    }
}
