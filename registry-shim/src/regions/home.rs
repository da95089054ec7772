//! A home: a region's layout in its own store, and its replica in another region's.
//!
//! Decides for every call which of the two is asked. The order of truth: a key that the journal
//! names is the replica's, every other key is the primary's; while the primary is away everything
//! is the replica's. A write that the primary does not take moves to the replica, journal first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, Result};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::{Backlog, Owed};
use super::breaker::Policy;
use super::journal::{self, ENTRIES_MAX, Entry, Journal, Op, Ticket};
use super::key;
use super::marks::Marks;
use super::metrics::HomeMetrics;
use super::redirect::Redirect;
use super::side::{Side, Which, failure, is_answer, late};
use crate::registry::now_ms;
use crate::storage::{Capabilities, Pointer, Presigned, Presigner, Standing, StoreState};

/// How often a primary is asked that fails and is not given up: as often as opens its breaker.
pub(super) const ASKED_MAX: usize = 3;
/// A megabyte more gives a write this much longer.
const PER_MEBIBYTE: Duration = Duration::from_secs(1);
/// Longest any write may last; [`Timing::unknown`] is longer.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(30);

/// An answer that the replica gave for a primary that is not given up yet makes others doubtful for
/// so long: longer than it is on its way, and than a tag is kept without asking.
const DOUBT_MS: u64 = 10_000;

/// How long things may take. Tests have their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// For one record, headers and body.
    pub(super) record: Duration,
    /// Of a stream that gives nothing.
    pub(super) idle: Duration,
    /// Age at which another instance's journaled write has ended, whatever came of it.
    pub(super) unknown: Duration,
    /// Between two readings of the journal while nothing is wrong.
    pub(super) refresh: Duration,
    /// Between two signs of life of an instance that owes the replica something.
    pub(super) heartbeat: Duration,
    /// Without a sign of life for so long an instance is dead, and others repair after it.
    pub(super) orphan: Duration,
    /// For how long nothing was owed before a mark goes.
    pub(super) quiet: Duration,
    /// For which a lease is taken: an instance that dies holds up the others for so long.
    pub(super) lease: Duration,
    /// Between writing a lease and believing in it: longer than a small write lasts.
    pub(super) lease_settle: Duration,
    /// Between two comparisons of all keys of both stores.
    pub(super) compare: Duration,
}

impl Timing {
    pub(super) fn new(record: Duration) -> Self {
        let seconds = Duration::from_secs;
        Self {
            record,
            idle: seconds(10),
            unknown: WRITE_MAX * 2,
            refresh: seconds(5),
            heartbeat: seconds(60),
            orphan: seconds(200),
            quiet: seconds(2),
            lease: seconds(30),
            lease_settle: Duration::from_millis(500),
            compare: seconds(24 * 60 * 60),
        }
    }
}

/// One region's layout and its replica.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) name: String,
    pub(super) replica_name: String,
    pub(super) primary: Side,
    pub(super) replica: Side,
    pub(super) journal: Arc<Journal>,
    pub(super) backlog: Backlog,
    pub(super) marks: Marks,
    pub(super) timing: Timing,
    pub(super) metrics: HomeMetrics,
    /// Names this instance in journal, marks and leases.
    pub(super) instance: String,
    pub(super) capabilities: OnceLock<Capabilities>,
    /// Whether the replica was ever compared with the primary as a whole.
    pub(super) complete: AtomicBool,
    /// Unix milliseconds since which it is not on its primary; 0 while it is.
    since_ms: AtomicU64,
    /// How often it has left its primary.
    departures: AtomicU64,
    /// How often redirects have changed their way.
    moved: AtomicU64,
    born: Instant,
    /// Milliseconds from `born` until which answers count as the replica's: the primary was to give
    /// one of the last and did not.
    doubtful_until_ms: AtomicU64,
    /// Wakes the workers.
    pub(super) changed: Notify,
}

/// A region's store from its root.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) presigner: Option<Presigner>,
}

/// Names and stores of a home, before it is one.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) replica_name: String,
    pub(super) primary: Whole,
    pub(super) other: Whole,
    pub(super) policy: Policy,
    pub(super) timing: Timing,
    pub(super) metrics: HomeMetrics,
    /// Tries redirects.
    pub(super) client: Option<reqwest::Client>,
}

impl Home {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { name, replica_name, primary, other, policy, timing, metrics, client } = parts;
        let side = |which, whole: &Whole, layout: &str| {
            let control = format!("regions/{name}");
            let under = |directory: &str| -> Arc<dyn ObjectStore> {
                Arc::new(PrefixStore::new(whole.store.clone(), directory))
            };
            let own = if layout.is_empty() { whole.store.clone() } else { under(layout) };
            let redirect = whole.presigner.as_ref().map(|presigner| {
                Redirect::new(presigner, [layout, &control], policy, client.clone())
            });
            Side::new(which, &name, [own, under(&control)], redirect, policy, metrics.clone())
        };
        Self {
            primary: side(Which::Primary, &primary, ""),
            replica: side(Which::Replica, &other, &format!("replica/{name}")),
            journal: Arc::default(),
            backlog: Backlog::default(),
            marks: Marks::default(),
            instance: Uuid::new_v4().simple().to_string(),
            capabilities: OnceLock::new(),
            complete: AtomicBool::new(false),
            since_ms: AtomicU64::new(0),
            departures: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            born: Instant::now(),
            doubtful_until_ms: AtomicU64::new(0),
            changed: Notify::new(),
            name,
            replica_name,
            timing,
            metrics,
        }
    }

    pub(super) const fn side(&self, which: Which) -> &Side {
        match which {
            Which::Primary => &self.primary,
            Which::Replica => &self.replica,
        }
    }

    /// Which store is the truth for the key.
    pub(super) fn truth(&self, key: &Path) -> Which {
        let primary =
            self.primary.is_up() && !self.journal.overflows() && self.journal.last(key).is_none();
        if primary { Which::Primary } else { Which::Replica }
    }

    /// Reads from the truth, and from the other store where it fails. Absence counts only where
    /// it is the truth's word: so a primary that fails is asked until it answers or is given up.
    pub(super) async fn read<T, F>(&self, key: &Path, get: impl Fn(Which) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut failed = None;
        for _ in 0..ASKED_MAX {
            if self.truth(key) == Which::Replica {
                return self.read_replica(key, get).await;
            }
            match get(Which::Primary).await {
                Err(error) if !is_answer(&error) => failed = Some(error),
                answer => return answer,
            }
            if self.replica.is_up()
                && let Ok(found) = get(Which::Replica).await
            {
                self.doubt();
                return Ok(found);
            }
        }
        match (self.truth(key), failed) {
            (Which::Primary, Some(error)) => Err(error),
            _ => self.read_replica(key, get).await,
        }
    }

    /// Reads where the replica is the truth.
    async fn read_replica<T, F>(&self, key: &Path, get: impl Fn(Which) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let error = match get(Which::Replica).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let is_absent = matches!(error, object_store::Error::NotFound { .. });
        if is_answer(&error) && (!is_absent || self.journal.last(key) == Some(Op::Delete)) {
            return Err(error);
        }
        // A write of another instance that did not come to its end, or a replica that fails: what
        // the primary has is old, and better than nothing.
        if self.primary.is_up()
            && let Ok(found) = get(Which::Primary).await
        {
            return Ok(found);
        }
        if is_absent && key::is_data(key) {
            // Nobody asks for bytes that no pointer names: they are on the store that is away.
            return Err(failure("bytes are not in the replica yet"));
        }
        Err(error)
    }

    /// Writes to the primary and owes the replica a copy; where the primary does not take it, to
    /// the replica, the journal first.
    pub(super) async fn write<T, F>(
        self: &Arc<Self>,
        key: &Path,
        op: Op,
        bytes: usize,
        put: impl Fn(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let within = self.write_timeout(bytes);
        let mut failed = None;
        if self.writes_to_primary(key) {
            let owed = self.owe(key).await;
            match self.primary.call(within, put(self.primary.store.clone())).await {
                Ok(written) => return Ok(written),
                Err(error) if is_answer(&error) => {
                    owed.forget();
                    return Err(error);
                }
                // Perhaps it was done all the same: the copy stays owed.
                Err(error) => failed = Some(error),
            }
        }
        if key::is_local(key) {
            return Err(failed.unwrap_or_else(late));
        }
        let ticket = match self.enter(op, key).await {
            Ok(ticket) => ticket,
            Err(error) => return Err(failed.unwrap_or(error)),
        };
        let written = self.replica.call(within, put(self.replica.store.clone())).await;
        ticket.ended();
        written
    }

    /// Writes to the primary, or not at all.
    pub(super) async fn write_primary<T>(
        self: &Arc<Self>,
        key: &Path,
        bytes: usize,
        put: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !self.state().is_primary() {
            return Err(failure("waits for its primary store"));
        }
        let owed = self.owe(key).await;
        let written = self.primary.call(self.write_timeout(bytes), put).await;
        if written.as_ref().err().is_some_and(is_answer) {
            owed.forget();
        }
        written
    }

    /// Whether a write of the key goes to the primary. It goes after what was written before: as
    /// long as the journal names the key, to the replica.
    pub(super) fn writes_to_primary(&self, key: &Path) -> bool {
        key::is_local(key)
            || (self.primary.is_up() && !self.journal.overflows() && !self.journal.names(key))
    }

    pub(super) fn write_timeout(&self, bytes: usize) -> Duration {
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        (self.timing.record + PER_MEBIBYTE.saturating_mul(mebibytes)).min(WRITE_MAX)
    }

    /// Writes the journal's entry for a write that follows.
    pub(super) async fn enter(&self, op: Op, key: &Path) -> Result<Ticket> {
        if !self.replica.is_up() {
            return Err(failure("neither store can be reached"));
        }
        let (entry, ticket) = self.journal.begin(now_ms(), &self.instance, op, key);
        self.note_state();
        let put = self.replica.control.put(&entry.location, PutPayload::new());
        match self.replica.call(self.timing.record, put).await {
            Ok(_) => Ok(ticket),
            Err(error) => {
                ticket.cancel();
                Err(error)
            }
        }
    }

    /// Marks the key's repository before something is written that the replica will lack.
    pub(super) async fn owe(self: &Arc<Self>, key: &Path) -> Owed {
        let scope = key::scope_of(key).map(|name| name.to_string());
        let owed = Backlog::owe(self, key, scope.clone());
        if let Some(scope) = scope {
            self.mark(&scope).await;
        }
        owed
    }

    /// Reads the journal.
    pub(super) async fn read_journal(&self) -> Result<()> {
        let since = Instant::now();
        let listed = async {
            let directory = Path::from(journal::DIRECTORY);
            let mut listing = self.replica.control.list(Some(&directory));
            let mut entries = Vec::new();
            while let Some(object) = listing.try_next().await? {
                entries.extend(Entry::parse(&object.location));
                if entries.len() >= ENTRIES_MAX {
                    return Ok((entries, false));
                }
            }
            Ok((entries, true))
        };
        // A long journal takes many requests.
        let (entries, complete) = self.replica.call(WRITE_MAX, listed).await?;
        self.journal.replace(entries, complete, since);
        self.note_state();
        Ok(())
    }

    /// Takes note of a change of state; returns the state.
    pub(super) fn note_state(&self) -> StoreState {
        let (away, pending) = (!self.primary.is_up(), self.journal.pending());
        self.metrics.pending_writes.set(i64::try_from(pending).unwrap_or(i64::MAX));
        if !away && pending == 0 {
            if self.since_ms.swap(0, Ordering::AcqRel) != 0 {
                tracing::info!(region = self.name, "is on its primary store again");
            }
            self.metrics.state.set(0);
            return StoreState::Primary;
        }
        let now = now_ms();
        let known = self.since_ms.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        if known.is_ok() {
            self.departures.fetch_add(1, Ordering::AcqRel);
        }
        let since_ms = known.err().unwrap_or(now);
        self.metrics.state.set(if away { 2 } else { 1 });
        if away { StoreState::FailedOver { since_ms } } else { StoreState::CatchingUp { since_ms } }
    }

    /// An answer is the replica's although the primary counts as there.
    fn doubt(&self) {
        self.doubtful_until_ms.store(self.age_ms() + DOUBT_MS, Ordering::Release);
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Redirects lead elsewhere from now on.
    pub(super) fn moved(&self) {
        self.moved.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether anything can be read.
    pub(super) fn can_serve(&self) -> bool {
        self.primary.is_up() || self.replica.is_up()
    }
}

impl Standing for Home {
    fn state(&self) -> StoreState {
        if self.primary.is_up() && self.journal.pending() == 0 {
            return StoreState::Primary;
        }
        self.note_state()
    }

    fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    fn capabilities(&self) -> Capabilities {
        let known = self.capabilities.get().copied();
        match known {
            Some(capabilities) if self.state().is_primary() => capabilities,
            // Two instances may stand on two stores.
            _ => Capabilities { conditional_create: false },
        }
    }

    fn delete_on_primary<'a>(self: Arc<Self>, key: &'a Path) -> BoxFuture<'a, Result<()>> {
        let delete =
            async move { self.write_primary(key, 0, self.primary.store.delete(key)).await };
        Box::pin(delete)
    }

    fn presign<'a>(&'a self, pointer: &'a Pointer) -> BoxFuture<'a, Option<Presigned>> {
        Box::pin(self.presigned(pointer))
    }

    fn redirects(&self) -> bool {
        self.redirects()
    }

    fn redirect_epoch(&self) -> u64 {
        let moved = self.moved.load(Ordering::Acquire);
        moved + self.primary.openings() + self.replica.openings()
    }

    fn may_be_stale(&self) -> bool {
        !self.primary.is_up() || self.age_ms() < self.doubtful_until_ms.load(Ordering::Acquire)
    }

    fn may_lack(&self, repository: &longshore_proto::RepositoryName) -> bool {
        if !self.journal.is_known() {
            return true;
        }
        !self.primary.is_up()
            && (!self.complete.load(Ordering::Acquire)
                || self.backlog.owes(repository.as_str())
                || self.marks.names(repository.as_str(), self.primary.openings()))
    }
}
