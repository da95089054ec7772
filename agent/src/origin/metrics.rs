//! What the origin's client counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of the membership; bytes from the origin are counted where they are verified.
#[derive(Clone, Debug, Default)]
pub struct OriginMetrics {
    /// Joins that gave a session, renewals included.
    pub joins: Counter,
    /// Attempts that did not.
    pub join_failures: Counter,
}

impl OriginMetrics {
    /// Under the names `<prefix>_joins_total` and so on.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("joins", "Joins that gave a session", metrics.joins.clone());
        registry.register(
            "join_failures",
            "Attempts to join that failed",
            metrics.join_failures.clone(),
        );
        metrics
    }
}
