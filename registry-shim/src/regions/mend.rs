//! The worker that keeps the replica a copy of the primary.
//!
//! What this instance wrote is copied at once, from its backlog; after an instance that died,
//! repositories are compared; at first and then daily, everything. It ends with its token; what
//! it leaves is known from marks. It never changes the primary.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backlog::Due;
use super::copy::{before, modified_ms};
use super::home::Home;
use super::key;
use super::marks::Orphan;
use super::side::{Which, present};
use crate::registry::now_ms;

/// Keys that are taken from the backlog at once.
const KEYS_PER_ROUND: usize = 256;
const KEYS_IN_FLIGHT_MAX: usize = 8;
/// Between two looks where nothing calls.
const IDLE: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
const LEASE: &str = "mend";
/// Says when all keys were compared last.
const COMPARED: &str = "compared";
/// Directories that are compared in parts, so that no listing of a whole store is in memory.
const WIDE: [&str; 5] = ["data", "blob", "states", "bref", "repo"];

impl Home {
    /// Runs until `ended`.
    pub(super) async fn mend(self: Arc<Self>, ended: CancellationToken) {
        let mut looked = None;
        let mend = async {
            loop {
                let _ = tokio::time::timeout(IDLE, self.backlog.grown.notified()).await;
                self.note_lag();
                if !(self.primary.is_up() && self.replica.is_up()) {
                    continue;
                }
                if let Err(error) = self.drain().await {
                    tracing::debug!(region = self.name, %error, "replication is interrupted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                self.tidy_marks().await;
                let due = looked.is_none_or(|at: Instant| at.elapsed() >= self.timing.heartbeat);
                if due {
                    looked = Some(Instant::now());
                    if let Err(error) = self.look_around().await {
                        tracing::warn!(region = self.name, %error, "repair is interrupted");
                    }
                }
            }
        };
        ended.run_until_cancelled(Box::pin(mend)).await;
    }

    fn note_lag(&self) {
        let (waiting, oldest) = self.backlog.waiting();
        self.metrics.replication_queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let lag = oldest.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.metrics.replication_lag_seconds.set(lag);
    }

    /// Copies all that this instance owes.
    pub(super) async fn drain(&self) -> Result<()> {
        loop {
            let due = self.backlog.due(KEYS_PER_ROUND);
            if due.is_empty() {
                break;
            }
            for rank in due.chunk_by(|a, b| key::rank(&a.key) == key::rank(&b.key)) {
                let pays: Vec<_> = rank.iter().map(|due| self.pay(due)).collect();
                let mut pays = stream::iter(pays).buffer_unordered(KEYS_IN_FLIGHT_MAX);
                while let Some(paid) = pays.next().await {
                    paid?;
                }
            }
            self.note_lag();
        }
        for scope in self.backlog.repairs() {
            self.repair(&scope).await?;
            self.backlog.repaired(&scope);
        }
        Ok(())
    }

    async fn pay(&self, due: &Due) -> Result<()> {
        self.replicate(&due.key).await?;
        self.metrics.replicated.inc();
        self.backlog.paid(due);
        Ok(())
    }

    /// Repairs after instances that died, and compares everything when it is time.
    pub(super) async fn look_around(&self) -> Result<()> {
        let orphans = self.read_marks().await;
        let compared_ms = self.compared_ms().await?;
        if compared_ms.is_some() {
            self.complete.store(true, Ordering::Release);
        }
        let due = compared_ms.is_none_or(|at| at < before(now_ms(), self.timing.compare));
        let all = self.backlog.take_all() || due;
        if (orphans.is_empty() && !all) || !self.hold(LEASE).await? {
            return Ok(());
        }
        for Orphan { on, location, scope } in orphans {
            tracing::info!(region = self.name, repository = scope, "repairs the replica");
            self.repair(&scope).await?;
            self.delete_mark(on, &location).await?;
        }
        if all {
            self.compare_all().await?;
        }
        self.release(LEASE).await;
        Ok(())
    }

    async fn compared_ms(&self) -> Result<Option<u64>> {
        let (side, key) = (&self.replica, Path::from(COMPARED));
        let head = async { present(side.control.head(&key).await) };
        Ok(side.call(self.timing.record, head).await?.map(|meta| modified_ms(&meta)))
    }

    /// Compares one repository.
    pub(super) async fn repair(&self, scope: &str) -> Result<()> {
        self.compare(&Path::from(format!("repo/{scope}!"))).await?;
        self.replicate(&Path::from(format!("cat/{scope}!"))).await
    }

    /// Compares all keys, and says so in the replica's store.
    pub(super) async fn compare_all(&self) -> Result<()> {
        tracing::info!(region = self.name, "compares primary and replica");
        for directory in self.directories(None).await? {
            if key::is_local(&directory.clone().join("-")) {
                continue;
            }
            let parts = if WIDE.contains(&directory.as_ref()) {
                self.directories(Some(&directory)).await?
            } else {
                BTreeSet::from([directory])
            };
            for part in parts {
                self.compare(&part).await?;
                // Long work keeps its lease, and loses it to nobody by being late.
                self.hold(LEASE).await?;
                self.drain_some().await?;
            }
        }
        let (side, key) = (&self.replica, Path::from(COMPARED));
        let put = side.control.put(&key, PutPayload::new());
        side.call(self.timing.record, put).await?;
        self.complete.store(true, Ordering::Release);
        tracing::info!(region = self.name, "replica is complete");
        Ok(())
    }

    /// New writes do not wait for a comparison of hours.
    async fn drain_some(&self) -> Result<()> {
        for due in self.backlog.due(KEYS_PER_ROUND) {
            self.pay(&due).await?;
        }
        self.tidy_marks().await;
        self.note_lag();
        Ok(())
    }

    /// Directories of both stores.
    async fn directories(&self, under: Option<&Path>) -> Result<BTreeSet<Path>> {
        let mut found = BTreeSet::new();
        for which in [Which::Primary, Which::Replica] {
            let side = self.side(which);
            let listed = side.call(self.timing.idle, side.store.list_with_delimiter(under)).await?;
            found.extend(listed.common_prefixes);
        }
        Ok(found)
    }

    /// Copies what differs under `prefix`, and deletes from the replica what the primary has not.
    async fn compare(&self, prefix: &Path) -> Result<()> {
        let replica = self.listed(Which::Replica, prefix).await?;
        let primary = self.listed(Which::Primary, prefix).await?;
        let by_key = |metas: Vec<ObjectMeta>| -> HashMap<Path, ObjectMeta> {
            metas.into_iter().map(|meta| (meta.location.clone(), meta)).collect()
        };
        let (primary, replica) = (by_key(primary), by_key(replica));
        let differs = |(key, meta): &(&Path, &ObjectMeta)| match replica.get(*key) {
            Some(copy) => {
                let older = modified_ms(copy) <= modified_ms(meta);
                copy.size != meta.size || key::is_tag(key) && older
            }
            None => !key::is_transient(key),
        };
        let gone = replica.keys().filter(|key| !primary.contains_key(*key));
        let mut keys: Vec<&Path> =
            primary.iter().filter(differs).map(|(key, _)| key).chain(gone).collect();
        keys.sort_by_key(|key| key::rank(key));
        for rank in keys.chunk_by(|a, b| key::rank(a) == key::rank(b)) {
            let copies: Vec<_> = rank.iter().map(|key| self.replicate(key)).collect();
            let mut copies = stream::iter(copies).buffer_unordered(KEYS_IN_FLIGHT_MAX);
            while let Some(copied) = copies.next().await {
                copied?;
            }
        }
        Ok(())
    }
}
