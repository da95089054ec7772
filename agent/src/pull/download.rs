//! Blobs on their way: each fetched once, however many ask for it.
//!
//! Owns one task per blob that is not whole; it ends when the blob is whole or has failed, or
//! with the agent. A blob that failed is refused for a while, so that containerd's resume goes to
//! its next host instead of waiting here again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use longshore_proto::{Digest, RepositoryName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::fetcher::{Fetcher, Want};
use super::ledger::BlobLedger;
use super::metrics::PullMetrics;
use crate::store::{BlobFailure, StoredBlob};

/// How long a failed blob is refused.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(30);
/// Failures remembered; the oldest go first.
const FAILURES_MAX: usize = 1024;

/// The blobs on their way. Clones are handles of the same ones.
#[derive(Clone, Debug)]
pub(super) struct Downloads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fetcher: Arc<dyn Fetcher>,
    metrics: PullMetrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    active: HashMap<Digest, Arc<StoredBlob>>,
    failed: HashMap<Digest, (Instant, BlobFailure)>,
}

impl Downloads {
    pub(super) fn new(
        fetcher: Arc<dyn Fetcher>,
        metrics: PullMetrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let table = Mutex::default();
        Self(Arc::new(Shared { fetcher, metrics, tasks, shutdown, table }))
    }

    /// Fetches what is missing of `blob`, unless that is under way.
    pub(super) fn ensure(
        &self,
        blob: &Arc<StoredBlob>,
        repository: &RepositoryName,
        order: u64,
        ledger: &Arc<BlobLedger>,
    ) {
        if blob.is_whole() {
            self.0.note_local(blob, ledger);
            return;
        }
        let mut table = self.locked();
        if table.active.contains_key(&blob.digest()) || self.0.shutdown.is_cancelled() {
            return;
        }
        table.active.insert(blob.digest(), Arc::clone(blob));
        table.failed.remove(&blob.digest());
        drop(table);
        blob.clear_failure();
        let want = Want {
            blob: Arc::clone(blob),
            repository: repository.clone(),
            order,
            ledger: Arc::clone(ledger),
        };
        let span = tracing::info_span!("download", digest = blob.digest().fmt_short());
        self.0.tasks.spawn(Arc::clone(&self.0).fetch(want).instrument(span));
    }

    /// Why the blob is refused, where it failed a moment ago.
    pub(super) fn recent_failure(&self, digest: &Digest) -> Option<BlobFailure> {
        let table = self.locked();
        let (since, why) = table.failed.get(digest)?;
        (since.elapsed() < FAILURE_MEMORY).then(|| why.clone())
    }

    /// A client saw no progress for too long: refuse the blob for a while.
    pub(super) fn note_failure(&self, digest: Digest, why: BlobFailure) {
        let mut table = self.locked();
        if table.failed.len() >= FAILURES_MAX {
            table.failed.retain(|_, (since, _)| since.elapsed() < FAILURE_MEMORY);
        }
        if table.failed.len() < FAILURES_MAX {
            table.failed.insert(digest, (Instant::now(), why));
        }
    }

    pub(super) fn fetcher(&self) -> &Arc<dyn Fetcher> {
        &self.0.fetcher
    }

    fn locked(&self) -> MutexGuard<'_, Table> {
        self.0.locked()
    }
}

impl Shared {
    async fn fetch(self: Arc<Self>, want: Want) {
        let (blob, ledger) = (Arc::clone(&want.blob), Arc::clone(&want.ledger));
        let digest = blob.digest();
        let mut changes = blob.changes();
        blob.recover().await;
        self.note_local(&blob, &ledger);
        if !blob.is_whole() {
            self.metrics.blob_downloads_started.inc();
            tracing::info!(bytes = blob.size(), held = blob.held().len(), "fetching");
            ledger.start();
            self.fetcher.want(want);
        }
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => None,
            ended = end(&blob, &mut changes) => Some(ended),
        };
        self.fetcher.unwant(digest);
        match ended {
            Some(Ok(())) => {
                ledger.finish();
                self.metrics.blob_downloads_finished.inc();
                tracing::info!(elapsed_ms = ledger.entries().elapsed().as_millis(), "whole");
            }
            Some(Err(why)) => {
                self.metrics.blob_downloads_failed.inc();
                tracing::warn!(error = %why, "gave up a blob");
                Downloads(Arc::clone(&self)).note_failure(digest, why);
            }
            None => {}
        }
        self.locked().active.remove(&digest);
    }

    /// Pieces that were here before anything was fetched.
    fn note_local(&self, blob: &StoredBlob, ledger: &BlobLedger) {
        let entries = ledger.entries();
        if entries.elapsed() > Duration::ZERO || entries.local.pieces > 0 {
            return;
        }
        let list = &blob.list().list;
        for range in blob.held().iter().filter_map(|piece| list.range(piece)) {
            ledger.was_local(range.length());
            self.metrics.local_bytes.inc_by(range.length());
        }
    }

    fn locked(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nothing panics while it holds the table")
    }
}

/// Until the blob is whole, or why it will not be.
async fn end(
    blob: &StoredBlob,
    changes: &mut tokio::sync::watch::Receiver<u64>,
) -> Result<(), BlobFailure> {
    loop {
        if blob.is_whole() {
            return Ok(());
        }
        if let Some(why) = blob.failure() {
            return Err(why);
        }
        // The sender lives in the blob, which is held here.
        let _ = changes.changed().await;
    }
}
