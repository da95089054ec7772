//! The journal: what was written to the replica instead of the primary.
//!
//! One empty object per write, its name saying when, by whom, what and which key:
//! `journal/<ms>-<sequence>-<instance>-<put|delete>/<key>`, written before the write itself, so
//! that one listing tells what the primary lacks. The bytes are the replica's own. In memory a
//! copy of it decides per key which store is the truth. An entry of this instance counts from the
//! moment its write has ended; another's may still be on its way, and is replayed only when it is
//! older than any write can last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use object_store::path::Path;
use tokio::time::Instant;

/// The directory of all entries.
pub(super) const DIRECTORY: &str = "journal";
/// Entries that are kept in memory, some 200 bytes each. With more the replica is the truth for
/// every key, until replaying has made them fewer.
pub(super) const ENTRIES_MAX: usize = 200_000;

/// What was done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Put,
    Delete,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its object in the control directory.
    pub(super) location: Path,
    /// Unix milliseconds, then the order in which one instance wrote.
    pub(super) order: (u64, u64),
    pub(super) op: Op,
    pub(super) key: Path,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// This instance is writing.
    Writing,
    /// It has ended, well or not.
    Ended(Instant),
    /// Another instance's, or one whose request was dropped in the middle.
    Unknown,
}

/// What is known of the journal.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: RwLock<HashMap<Path, (Entry, Phase)>>,
    by_key: RwLock<HashMap<Path, Vec<Path>>>,
    pending: AtomicUsize,
    sequence: AtomicU64,
    /// Whether the journal was ever read: before that others' writes may be unknown.
    known: AtomicBool,
    overflowing: AtomicBool,
}

/// A write under way; dropped in the middle it counts as another's.
#[derive(Debug)]
pub(super) struct Ticket {
    journal: Arc<Journal>,
    location: Path,
    ended: bool,
}

impl Entry {
    pub(super) fn new(order: (u64, u64), instance: &str, op: Op, key: &Path) -> Self {
        let name = match op {
            Op::Put => "put",
            Op::Delete => "delete",
        };
        let (at_ms, sequence) = order;
        let location = format!("{DIRECTORY}/{at_ms:020}-{sequence:010}-{instance}-{name}/{key}");
        Self { location: Path::from(location), order, op, key: key.clone() }
    }

    pub(super) fn parse(location: &Path) -> Option<Self> {
        let rest = location.as_ref().strip_prefix(DIRECTORY)?.strip_prefix('/')?;
        let (name, key) = rest.split_once('/')?;
        let mut parts = name.split('-');
        let order = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let op = match parts.next_back()? {
            "put" => Op::Put,
            "delete" => Op::Delete,
            _ => return None,
        };
        Some(Self { location: location.clone(), order, op, key: Path::from(key) })
    }
}

impl Journal {
    /// Writes that the primary does not have yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Whether it was read since the start.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Whether there are more entries than are kept.
    pub(super) fn overflows(&self) -> bool {
        self.overflowing.load(Ordering::Acquire)
    }

    /// What was done last with the key, as far as it has ended; `None`: the primary is the truth.
    pub(super) fn last(&self, key: &Path) -> Option<Op> {
        if self.pending() == 0 {
            return None;
        }
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let found = by_key.get(key)?.iter().filter_map(|location| entries.get(location));
        let ended = found.filter(|(_, phase)| !matches!(phase, Phase::Writing));
        ended.max_by_key(|(entry, _)| entry.order).map(|(entry, _)| entry.op)
    }

    /// Whether there is any entry for the key, also of a write under way.
    pub(super) fn names(&self, key: &Path) -> bool {
        self.pending() != 0
            && self.by_key.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// The keys under `prefix` whose truth is the replica, each with what was done last.
    pub(super) fn under(&self, prefix: Option<&Path>) -> HashMap<Path, Op> {
        if self.pending() == 0 {
            return HashMap::new();
        }
        let keys: Vec<Path> = {
            let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
            let within = |key: &&Path| prefix.is_none_or(|prefix| key.prefix_matches(prefix));
            by_key.keys().filter(within).cloned().collect()
        };
        keys.into_iter().filter_map(|key| Some((key.clone(), self.last(&key)?))).collect()
    }

    /// An entry for a write that begins; its object is the caller's to write.
    pub(super) fn begin(
        self: &Arc<Self>,
        now_ms: u64,
        instance: &str,
        op: Op,
        key: &Path,
    ) -> (Entry, Ticket) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new((now_ms, sequence), instance, op, key);
        self.insert(entry.clone(), Phase::Writing);
        let location = entry.location.clone();
        (entry, Ticket { journal: self.clone(), location, ended: false })
    }

    /// Takes over what a listing that began at `since` found. Entries written meanwhile stay.
    pub(super) fn replace(&self, listed: Vec<Entry>, complete: bool, since: Instant) {
        let found: std::collections::HashSet<&Path> =
            listed.iter().map(|entry| &entry.location).collect();
        let gone: Vec<Path> = {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            let is_gone = |(location, (_, phase)): &(&Path, &(Entry, Phase))| {
                let older = match phase {
                    Phase::Writing => false,
                    Phase::Ended(at) => *at < since,
                    Phase::Unknown => true,
                };
                complete && older && !found.contains(location)
            };
            entries.iter().filter(is_gone).map(|(location, _)| location.clone()).collect()
        };
        for location in gone {
            self.remove(&location);
        }
        for entry in listed {
            self.insert(entry, Phase::Unknown);
        }
        self.overflowing.store(!complete, Ordering::Release);
        self.known.store(true, Ordering::Release);
    }

    /// Up to `max` keys with all their entries, the oldest first, whose writes have all ended:
    /// this instance's ended, another's not younger than `unknown_before_ms`.
    pub(super) fn replayable(&self, unknown_before_ms: u64, max: usize) -> Vec<(Path, Vec<Entry>)> {
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut ready: Vec<(Path, Vec<Entry>)> = Vec::new();
        for (key, locations) in by_key.iter() {
            let all: Vec<_> = locations.iter().filter_map(|at| entries.get(at)).collect();
            let ended = |(entry, phase): &&(Entry, Phase)| match phase {
                Phase::Writing => false,
                Phase::Ended(_) => true,
                Phase::Unknown => entry.order.0 < unknown_before_ms,
            };
            if all.iter().all(ended) {
                let mut all: Vec<Entry> = all.into_iter().map(|(entry, _)| entry.clone()).collect();
                all.sort_by_key(|entry| entry.order);
                ready.push((key.clone(), all));
            }
        }
        ready.sort_by_key(|(_, entries)| entries.first().map(|entry| entry.order));
        ready.truncate(max);
        ready
    }

    /// The entry's object is gone.
    pub(super) fn remove(&self, location: &Path) {
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some((entry, _)) = entries.remove(location) else { return };
        if let Some(locations) = by_key.get_mut(&entry.key) {
            locations.retain(|other| other != location);
            if locations.is_empty() {
                by_key.remove(&entry.key);
            }
        }
        self.pending.store(entries.len(), Ordering::Release);
    }

    fn insert(&self, entry: Entry, phase: Phase) {
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(&entry.location) {
            return;
        }
        by_key.entry(entry.key.clone()).or_default().push(entry.location.clone());
        entries.insert(entry.location.clone(), (entry, phase));
        self.pending.store(entries.len(), Ordering::Release);
    }

    fn end(&self, location: &Path, phase: Phase) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, at)) = entries.get_mut(location) {
            *at = phase;
        }
    }
}

impl Ticket {
    /// The write has ended, well or not: what it did is done.
    pub(super) fn ended(mut self) {
        self.ended = true;
        self.journal.end(&self.location, Phase::Ended(Instant::now()));
    }

    /// The entry could not be written, so the write was not begun.
    pub(super) fn cancel(mut self) {
        self.ended = true;
        self.journal.remove(&self.location);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.journal.end(&self.location, Phase::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "repo/a/b!/tag/v1";

    fn journal() -> Arc<Journal> {
        Arc::new(Journal::default())
    }

    #[test]
    fn an_entrys_name_says_all() {
        for op in [Op::Put, Op::Delete] {
            let entry = Entry::new((7, 3), "0a1b", op, &KEY.into());
            assert_eq!(Entry::parse(&entry.location), Some(entry));
        }
        for bad in ["journal", "journal/x", "journal/1-2-put", "journal/1-2-i-move/a", "other/a"] {
            assert_eq!(Entry::parse(&bad.into()), None, "{bad}");
        }
    }

    #[test]
    fn a_write_decides_its_key_once_it_has_ended() {
        let (journal, key) = (journal(), Path::from(KEY));
        let (_, first) = journal.begin(1, "i", Op::Put, &key);
        assert_eq!((journal.last(&key), journal.names(&key)), (None, true));
        first.ended();
        assert_eq!(journal.last(&key), Some(Op::Put));
        let (entry, second) = journal.begin(1, "i", Op::Delete, &key);
        assert_eq!(journal.last(&key), Some(Op::Put));
        second.ended();
        assert_eq!(journal.last(&key), Some(Op::Delete));
        assert_eq!(journal.replayable(0, 9)[0].1.len(), 2);
        journal.remove(&entry.location);
        assert_eq!((journal.last(&key), journal.pending()), (Some(Op::Put), 1));
    }

    #[test]
    fn a_write_that_may_be_under_way_is_not_replayed() {
        let (journal, key) = (journal(), Path::from(KEY));
        let (_, ended) = journal.begin(1, "i", Op::Put, &key);
        ended.ended();
        let (_, running) = journal.begin(2, "i", Op::Put, &key);
        // One of the key's two is not over.
        assert_eq!(journal.replayable(u64::MAX, 9), []);
        drop(running);
        assert_eq!(journal.replayable(2, 9), []);
        assert_eq!(journal.replayable(3, 9).len(), 1);
    }

    #[tokio::test]
    async fn a_listing_forgets_only_what_was_there_before_it_began() {
        let (journal, key) = (journal(), Path::from(KEY));
        let (kept, ticket) = journal.begin(1, "i", Op::Put, &key);
        ticket.ended();
        let began = Instant::now();
        let (_, running) = journal.begin(2, "i", Op::Put, &Path::from("a"));
        let foreign = Entry::new((1, 1), "other", Op::Put, &Path::from("b"));
        journal.replace(vec![kept.clone(), foreign.clone()], true, began);
        assert_eq!(journal.pending(), 3);
        journal.replace(vec![], true, Instant::now() + std::time::Duration::from_secs(1));
        assert_eq!(journal.pending(), 1, "the write under way stays");
        running.ended();
        // A listing that stopped at its bound forgets nothing.
        journal.replace(vec![foreign], false, Instant::now() + std::time::Duration::from_secs(1));
        assert_eq!((journal.pending(), journal.overflows()), (2, true));
    }
}
