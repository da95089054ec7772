//! What the mirror counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds: from what is here already to the default timeout.
const FIRST_BYTE_BUCKETS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The status of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// As in HTTP.
    pub status: u16,
}

/// Counters of the mirror; clones count together.
#[derive(Clone, Debug)]
pub struct MirrorMetrics {
    /// Answers by status, when their head is ready.
    pub requests: Family<StatusLabel, Counter>,
    /// Their sum, for operators; not registered.
    pub answers: Counter,
    /// Answers that send containerd to its next host.
    pub handed_on: Counter,
    /// Bodies that broke off, so that containerd resumes elsewhere; not clients that left.
    pub broken_bodies: Counter,
    /// Bytes of bodies handed to the connection.
    pub sent_bytes: Counter,
    /// Bodies being sent.
    pub open_bodies: Gauge,
    /// From a request to the first bytes of its answer.
    pub first_byte_seconds: Histogram,
}

impl Default for MirrorMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            answers: Counter::default(),
            handed_on: Counter::default(),
            broken_bodies: Counter::default(),
            sent_bytes: Counter::default(),
            open_bodies: Gauge::default(),
            first_byte_seconds: Histogram::new(FIRST_BYTE_BUCKETS),
        }
    }
}

impl MirrorMetrics {
    /// Under the names `<prefix>_requests_total` and so on.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("requests", "Answers by status", metrics.requests.clone());
        registry.register(
            "handed_on",
            "Answers that send containerd to its next host",
            metrics.handed_on.clone(),
        );
        registry.register("broken_bodies", "Bodies that broke off", metrics.broken_bodies.clone());
        registry.register("sent_bytes", "Bytes of bodies sent", metrics.sent_bytes.clone());
        registry.register("open_bodies", "Bodies being sent", metrics.open_bodies.clone());
        registry.register(
            "first_byte_seconds",
            "From a request to the first bytes of its answer",
            metrics.first_byte_seconds.clone(),
        );
        metrics
    }
}
