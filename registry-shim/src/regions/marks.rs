//! Marks: "an instance owes the replica something of this repository".
//!
//! `dirty/<instance>-<n>/<repository>!`, written to the replica's store (or, where that is away,
//! to the primary's) before the first write of a repository is acknowledged, renewed while the
//! instance lives, and deleted when it has owed nothing for a while. So that without the primary
//! it is known of which repositories the replica may lack something, and after an instance has
//! died what has to be repaired. A name is never used again: a late deletion meets nobody.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload, Result};
use tokio::time::Instant;

use super::home::{Home, WRITE_MAX};
use super::side::Which;
use crate::registry::now_ms;

const DIRECTORY: &str = "dirty";

#[derive(Debug, Default)]
pub(super) struct Marks {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    own: HashMap<String, Own>,
    next: u64,
    /// Repositories that marks of all instances name, per store; `None`: never read.
    primary: Option<HashSet<String>>,
    /// And how often the primary had gone away by then: marks may have been made until it went.
    replica: Option<(u64, HashSet<String>)>,
}

/// A mark of this instance.
#[derive(Clone, Debug)]
struct Own {
    on: Which,
    location: Path,
    /// The last moment at which something was owed.
    owed: Instant,
    renewed: Instant,
}

/// A mark that nobody renews.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub(super) on: Which,
    pub(super) location: Path,
    pub(super) scope: String,
}

impl Marks {
    /// Whether a mark of any instance names the repository, or marks of the time before the
    /// primary's last going away, the `openings`th, have not been read.
    pub(super) fn names(&self, scope: &str, openings: u64) -> bool {
        let inner = self.lock();
        let primary = inner.primary.as_ref().is_none_or(|scopes| scopes.contains(scope));
        let replica = inner.replica.as_ref();
        primary || replica.is_none_or(|(at, scopes)| *at != openings || scopes.contains(scope))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home {
    /// Returns once the repository is marked, or neither store takes a mark: then the primary
    /// will not take the write either.
    pub(super) async fn mark(&self, scope: &str) {
        let location = {
            let mut inner = self.marks.lock();
            if let Some(own) = inner.own.get_mut(scope) {
                own.owed = Instant::now();
                return;
            }
            inner.next += 1;
            Path::from(format!("{DIRECTORY}/{}-{}/{scope}!", self.instance, inner.next))
        };
        for on in [Which::Replica, Which::Primary] {
            if self.side(on).is_up() && self.put_mark(on, &location).await.is_ok() {
                let now = Instant::now();
                let own = Own { on, location: location.clone(), owed: now, renewed: now };
                // Two writers may have marked at once: the mark that stays behind is an orphan
                // some day, and then repaired for nothing.
                self.marks.lock().own.insert(scope.to_owned(), own);
                return;
            }
        }
    }

    async fn put_mark(&self, on: Which, location: &Path) -> Result<()> {
        let side = self.side(on);
        let put = side.control.put(location, PutPayload::new());
        side.call(self.timing.record, put).await.map(|_| ())
    }

    /// Deletes the marks of what is no longer owed, and renews the others.
    pub(super) async fn tidy_marks(&self) {
        let (mut gone, mut renew) = (Vec::new(), Vec::new());
        {
            let mut inner = self.marks.lock();
            let now = Instant::now();
            inner.own.retain(|scope, own| {
                if self.backlog.owes(scope) {
                    own.owed = now;
                } else if now.duration_since(own.owed) >= self.timing.quiet {
                    gone.push((own.on, own.location.clone()));
                    return false;
                }
                if now.duration_since(own.renewed) >= self.timing.heartbeat {
                    own.renewed = now;
                    renew.push((own.on, own.location.clone()));
                }
                true
            });
        }
        for (on, location) in renew {
            // One that fails becomes an orphan: it is repaired for nothing.
            let _ = self.put_mark(on, &location).await;
        }
        for (on, location) in gone {
            // One that stays does no harm either.
            let _ = self.delete_mark(on, &location).await;
        }
    }

    pub(super) async fn delete_mark(&self, on: Which, location: &Path) -> Result<()> {
        let side = self.side(on);
        side.call(self.timing.record, side.control.delete(location)).await
    }

    /// Reads the marks of all instances from the stores that are up; returns those of dead ones.
    pub(super) async fn read_marks(&self) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for on in [Which::Primary, Which::Replica] {
            if !self.side(on).is_up() {
                continue;
            }
            let openings = self.primary.openings();
            let Ok((scopes, dead)) = self.list_marks(on).await else { continue };
            orphans.extend(dead);
            let mut inner = self.marks.lock();
            match on {
                Which::Primary => inner.primary = Some(scopes),
                Which::Replica => inner.replica = Some((openings, scopes)),
            }
        }
        orphans
    }

    async fn list_marks(&self, on: Which) -> Result<(HashSet<String>, Vec<Orphan>)> {
        let (side, directory) = (self.side(on), Path::from(DIRECTORY));
        let listing = side.control.list(Some(&directory)).try_collect::<Vec<_>>();
        let (mut scopes, mut orphans) = (HashSet::new(), Vec::new());
        let orphan_ms = i128::try_from(self.timing.orphan.as_millis()).unwrap_or(i128::MAX);
        for object in side.call(WRITE_MAX, listing).await? {
            let Some((instance, scope)) = parse(&object.location) else { continue };
            let age = i128::from(now_ms()) - i128::from(object.last_modified.timestamp_millis());
            if instance != self.instance && age > orphan_ms {
                let (location, scope) = (object.location.clone(), scope.to_owned());
                orphans.push(Orphan { on, location, scope });
            }
            scopes.insert(scope.to_owned());
        }
        Ok((scopes, orphans))
    }
}

/// The instance and the repository.
fn parse(location: &Path) -> Option<(&str, &str)> {
    let (name, scope) = location.as_ref().strip_prefix("dirty/")?.split_once('/')?;
    Some((name.split_once('-')?.0, scope.strip_suffix('!')?))
}
