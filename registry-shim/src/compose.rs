//! Composing in the background: blobs that came in several requests become one object each.
//!
//! Owns which blobs are worth it, the queue and its bounds; the work is `storage::compose`'s. What
//! was just pushed is offered, and what is met at a read. An offer is a look-up and never waits: a
//! full queue drops it, and the next read offers again. Nothing here is ever in the path of a push
//! or a pull, and nothing is lost with it. It ends with the instance: what is under way is given
//! up, and what it had written is taken back.

use std::time::Duration;

use futures::StreamExt as _;
use longshore_proto::Digest;
use moka::sync::Cache;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::cache::CachedStorage;
use crate::storage::{Composed, Pointer};

/// Blobs that are composed at once: each costs a share of a core, three parts of memory, and the
/// store's bandwidth, which pulls need more.
const RUNNING_MAX: usize = 2;
/// Blobs that wait for it.
const QUEUE_MAX: usize = 1024;
/// A blob that was offered is not taken again before: an attempt that failed, or another
/// instance's, gets so much time.
const OFFERED_FOR: Duration = Duration::from_secs(10 * 60);
/// Offers that are remembered.
const OFFERED_MAX: u64 = 16 * QUEUE_MAX as u64;
/// For those under way at the end, to take back what they wrote.
const END_GRACE: Duration = Duration::from_secs(2);

/// How attempts ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `done`, `needless`, `gone`, `elsewhere`, `not_now`, `stopped`, `failed`
    pub outcome: &'static str,
}

/// Of this instance's attempts; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct ComposeMetrics {
    /// Attempts that ended.
    pub blobs: Family<OutcomeLabels, Counter>,
    /// Bytes of blobs that were composed.
    pub bytes: Counter,
    /// Offers that found the queue full.
    pub dropped: Counter,
    /// Blobs that wait.
    pub queued: Gauge,
    /// Blobs that are being composed.
    pub running: Gauge,
}

impl ComposeMetrics {
    /// Enters the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("blobs", "Attempts to compose a blob, by outcome", self.blobs.clone());
        registry.register("bytes", "Bytes of composed blobs", self.bytes.clone());
        registry.register("dropped", "Blobs that found the queue full", self.dropped.clone());
        registry.register("queued", "Blobs that wait to be composed", self.queued.clone());
        registry.register("running", "Blobs that are being composed", self.running.clone());
    }

    fn ended(&self, outcome: &'static str) {
        self.blobs.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

/// Takes offers; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    queue: mpsc::Sender<Job>,
    /// By store and digest.
    offered: Cache<(usize, Digest), ()>,
    metrics: ComposeMetrics,
}

/// Does the work.
#[derive(Debug)]
pub(crate) struct Composing {
    jobs: mpsc::Receiver<Job>,
    metrics: ComposeMetrics,
}

#[derive(Debug)]
struct Job {
    storage: CachedStorage,
    digest: Digest,
}

/// The queue's two ends.
pub(crate) fn queue(metrics: ComposeMetrics) -> (Composer, Composing) {
    let (queue, jobs) = mpsc::channel(QUEUE_MAX);
    let offered = Cache::builder().max_capacity(OFFERED_MAX).time_to_live(OFFERED_FOR).build();
    (Composer { queue, offered, metrics: metrics.clone() }, Composing { jobs, metrics })
}

impl Composer {
    /// Somebody met the blob: it will be composed if that is worth it.
    pub(crate) fn offer(&self, storage: &CachedStorage, digest: &Digest, pointer: &Pointer) {
        if !storage.storage().is_composable(pointer) {
            return;
        }
        let key = (storage.storage().identity(), *digest);
        if self.offered.contains_key(&key) {
            return;
        }
        self.offered.insert(key, ());
        // Before it is sent: whoever takes it counts it out.
        self.metrics.queued.inc();
        let job = Job { storage: storage.clone(), digest: *digest };
        if self.queue.try_send(job).is_err() {
            self.metrics.queued.dec();
            self.metrics.dropped.inc();
            self.offered.invalidate(&key);
        }
    }
}

impl Composing {
    /// Works until `ended`, and a little longer where something has to be taken back.
    pub(crate) async fn run(mut self, ended: CancellationToken) {
        let metrics = self.metrics.clone();
        let jobs = futures::stream::poll_fn(|cx| self.jobs.poll_recv(cx));
        let work = jobs.take_until(ended.cancelled()).for_each_concurrent(RUNNING_MAX, |job| {
            let span = tracing::info_span!("compose", digest = %job.digest.fmt_short());
            job.run(&metrics, &ended).instrument(span)
        });
        let end = async {
            ended.cancelled().await;
            tokio::time::sleep(END_GRACE).await;
        };
        tokio::select! {
            () = work => {}
            () = end => {}
        }
        self.metrics.queued.set(0);
        self.metrics.running.set(0);
    }
}

impl Job {
    async fn run(self, metrics: &ComposeMetrics, ended: &CancellationToken) {
        metrics.queued.dec();
        metrics.running.inc();
        let composed = self.storage.compose(&self.digest, ended).await;
        metrics.running.dec();
        match composed {
            Ok(Composed::Done(bytes)) => {
                tracing::info!(bytes, "composed a blob of several segments");
                metrics.bytes.inc_by(bytes);
                metrics.ended("done");
            }
            Ok(other) => {
                tracing::debug!(outcome = ?other, "blob is not composed");
                metrics.ended(match other {
                    Composed::Done(_) | Composed::Needless => "needless",
                    Composed::Gone => "gone",
                    Composed::Elsewhere => "elsewhere",
                    Composed::NotNow => "not_now",
                    Composed::Stopped => "stopped",
                });
            }
            Err(error) => {
                tracing::warn!(%error, "blob is not composed: it is sent from here");
                metrics.ended("failed");
            }
        }
    }
}
