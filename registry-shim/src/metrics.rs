//! The registry's counters. Labels are routes, kinds and statuses, never digests or peers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::auth::AuthMetrics;
use crate::compose::ComposeMetrics;
use crate::gc::GcMetrics;
use crate::limits::AdmissionMetrics;
use crate::quota::QuotaMetrics;
use crate::regions::RegionMetrics;
use crate::serve::{ServeMetrics, TlsMetrics};
use crate::tracker::TrackerMetrics;
use crate::upstream::UpstreamsMetrics;

/// A request's route and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// `manifest`, `blob`, `upload`, `tags`, `referrers`, `catalog`, `base`, `token`, `rpc`, `refused`,
    /// `unknown`
    pub route: &'static str,
    /// `GET`, `HEAD`, …; `OTHER` for what no route takes.
    pub method: &'static str,
    /// `200`
    pub status: u16,
}

/// What some sent bytes were.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// `blob`, `permit`, `manifest`, `inline`
    pub kind: &'static str,
}

/// How an upload ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `committed`, `mounted`, `cancelled`, `refused`
    pub outcome: &'static str,
}

/// All counters; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Answered requests, counted when the answer's head is ready.
    pub requests: Family<RequestLabels, Counter>,
    /// Payload handed to connections; a client that hangs up gets less.
    pub sent_bytes: Family<KindLabels, Counter>,
    /// Bytes of upload bodies, also of those that were refused in the end.
    pub received_bytes: Counter,
    /// Uploads that ended; unfinished ones are in no count.
    pub uploads: Family<OutcomeLabels, Counter>,
    /// From the request's head to the answer's head, gRPC not included.
    pub seconds: Histogram,
    /// The main port's connections.
    pub serve: ServeMetrics,
    /// What is under way at once.
    pub admission: AdmissionMetrics,
    /// Requests over one client's limit.
    pub throttled: Counter,
    /// Times that a body of layers waited for its client's share of bytes.
    pub body_pauses: Counter,
    /// Its encryption.
    pub tls: TlsMetrics,
    /// Joins by nodes that were let in.
    pub joins: Counter,
    /// Joins that were refused.
    pub joins_refused: Counter,
    /// Items of plans that were answered in full.
    pub plans: Counter,
    /// Items of plans that ended in an error.
    pub plans_failed: Counter,
    /// The gate's.
    pub auth: AuthMetrics,
    /// Collections'.
    pub gc: GcMetrics,
    /// Of blobs that are brought together.
    pub compose: ComposeMetrics,
    /// Quotas'.
    pub quota: QuotaMetrics,
    /// The tracker's.
    pub tracker: TrackerMetrics,
    /// The regions'; empty without any.
    pub regions: RegionMetrics,
    /// Of the registries that this one fronts.
    pub upstream: UpstreamsMetrics,
}

impl Metrics {
    /// Counters at zero.
    pub fn new() -> Self {
        Self {
            requests: Family::default(),
            sent_bytes: Family::default(),
            received_bytes: Counter::default(),
            uploads: Family::default(),
            // 100 µs to 52 s
            seconds: Histogram::new(exponential_buckets(0.0001, 3.0, 13)),
            serve: ServeMetrics::default(),
            admission: AdmissionMetrics::default(),
            throttled: Counter::default(),
            body_pauses: Counter::default(),
            tls: TlsMetrics::default(),
            joins: Counter::default(),
            joins_refused: Counter::default(),
            plans: Counter::default(),
            plans_failed: Counter::default(),
            auth: AuthMetrics::default(),
            gc: GcMetrics::default(),
            compose: ComposeMetrics::default(),
            quota: QuotaMetrics::default(),
            tracker: TrackerMetrics::default(),
            regions: RegionMetrics::default(),
            upstream: UpstreamsMetrics::default(),
        }
    }

    /// Enters the counters; `registry` gives the prefix `longshore`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("registry");
        registry.register("requests", "Answered requests", self.requests.clone());
        registry.register("sent_bytes", "Payload sent, by kind", self.sent_bytes.clone());
        registry.register("received_bytes", "Upload payload", self.received_bytes.clone());
        registry.register("uploads", "Ended uploads, by outcome", self.uploads.clone());
        registry.register("request_seconds", "Time to the answer's head", self.seconds.clone());
        self.serve.register(registry);
        self.admission.register(registry);
        let throttled = "Requests over one client's limit";
        registry.register("requests_throttled", throttled, self.throttled.clone());
        let pauses = "Waits of layers' bytes for one client's share";
        registry.register("body_pauses", pauses, self.body_pauses.clone());
        self.tls.register(registry.sub_registry_with_prefix("tls"));
        registry.register("joins", "Nodes let in", self.joins.clone());
        registry.register("joins_refused", "Nodes not let in", self.joins_refused.clone());
        registry.register("plans", "Plan items answered", self.plans.clone());
        registry.register("plans_failed", "Plan items that failed", self.plans_failed.clone());
        self.auth.register(registry.sub_registry_with_prefix("auth"));
        self.gc.register(registry.sub_registry_with_prefix("gc"));
        self.compose.register(registry.sub_registry_with_prefix("compose"));
        self.quota.register(registry.sub_registry_with_prefix("quota"));
        self.tracker.register(registry.sub_registry_with_prefix("tracker"));
        self.regions.register(registry.sub_registry_with_prefix("region"));
        self.upstream.register(registry.sub_registry_with_prefix("upstream"));
    }

    /// A counter of sent bytes.
    pub fn sent(&self, kind: &'static str) -> Counter {
        self.sent_bytes.get_or_create_owned(&KindLabels { kind })
    }

    /// An upload ended.
    pub fn upload_ended(&self, outcome: &'static str) {
        self.uploads.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
