//! What is counted of upstreams. The label is an upstream's prefix: as many values as the
//! configuration has.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct UpstreamLabels {
    /// Its prefix.
    upstream: String,
}

/// How something ended at one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabels {
    /// Its prefix.
    upstream: String,
    /// Of questions: `ok`, `not_found`, `denied`, `limited`, `timed_out`, `bad_answer`, `failed`,
    /// `refused`. Of fills: `kept`, `passed` (verified, not kept: over quota, or the store failed),
    /// `mounted` (its bytes were here already), `mismatch`, `abandoned`, `local` (spool or store),
    /// or as questions.
    outcome: &'static str,
}

/// Counters of all upstreams; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct UpstreamsMetrics {
    requests: Family<EndLabels, Counter>,
    blob_reads: Family<UpstreamLabels, Counter>,
    received_bytes: Family<UpstreamLabels, Counter>,
    fills: Family<EndLabels, Counter>,
    resumes: Family<UpstreamLabels, Counter>,
    stale: Family<UpstreamLabels, Counter>,
    pushes: Family<EndLabels, Counter>,
    relays: Family<EndLabels, Counter>,
    pub(super) filling: Gauge,
    pub(super) readers: Gauge,
    pub(super) buffered_bytes: Gauge,
    pub(super) buffered_bytes_peak: Gauge,
}

/// Those of one upstream.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamMetrics {
    upstream: String,
    pub(super) all: UpstreamsMetrics,
}

impl UpstreamsMetrics {
    /// Enters them; `registry` gives the prefix `longshore_registry_upstream`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Questions put, by outcome", self.requests.clone());
        registry.register("blob_reads", "Bodies of blobs begun", self.blob_reads.clone());
        let received = self.received_bytes.clone();
        registry.register("received_bytes", "Bytes of blobs received", received);
        registry.register("fills", "Blobs fetched, by outcome", self.fills.clone());
        registry.register("resumes", "Blobs gone on with after a break", self.resumes.clone());
        registry.register("stale_answers", "Tags answered during an outage", self.stale.clone());
        registry.register("pushes", "Pushes passed on, by outcome", self.pushes.clone());
        let relays = self.relays.clone();
        registry.register(
            "relays",
            "Requests of pushes passed on as they came, by outcome",
            relays,
        );
        registry.register("filling", "Blobs being fetched", self.filling.clone());
        registry.register("readers", "Clients that read a growing blob", self.readers.clone());
        registry.register(
            "buffered_bytes",
            "Bytes of growing blobs held for clients",
            self.buffered_bytes.clone(),
        );
        registry.register(
            "buffered_bytes_peak",
            "Most that were held at once",
            self.buffered_bytes_peak.clone(),
        );
    }
}

impl UpstreamMetrics {
    pub(super) fn of(all: &UpstreamsMetrics, upstream: &str) -> Self {
        Self { upstream: upstream.to_owned(), all: all.clone() }
    }

    fn ends(&self, outcome: &'static str) -> EndLabels {
        EndLabels { upstream: self.upstream.clone(), outcome }
    }

    fn one(&self) -> UpstreamLabels {
        UpstreamLabels { upstream: self.upstream.clone() }
    }

    /// A question has its answer.
    pub(super) fn asked(&self, outcome: &'static str) {
        self.all.requests.get_or_create(&self.ends(outcome)).inc();
    }

    /// A blob's body begins.
    pub(super) fn blob_read(&self) {
        self.all.blob_reads.get_or_create(&self.one()).inc();
    }

    /// Bytes of a blob came.
    pub(super) fn received(&self, bytes: u64) {
        self.all.received_bytes.get_or_create(&self.one()).inc_by(bytes);
    }

    /// A fill is over.
    pub(super) fn filled(&self, outcome: &'static str) {
        self.all.fills.get_or_create(&self.ends(outcome)).inc();
    }

    /// A fill goes on after a break.
    pub(super) fn resumed(&self) {
        self.all.resumes.get_or_create(&self.one()).inc();
    }

    /// A tag is answered from what is kept, as the upstream cannot be asked.
    pub(super) fn stale(&self) {
        self.all.stale.get_or_create(&self.one()).inc();
    }

    /// A push was passed on.
    pub(super) fn pushed(&self, outcome: &'static str) {
        self.all.pushes.get_or_create(&self.ends(outcome)).inc();
    }

    /// What a pusher sent was passed on as it came; or it was not, and is at the end.
    pub(super) fn relayed(&self, outcome: &'static str) {
        self.all.relays.get_or_create(&self.ends(outcome)).inc();
    }
}
