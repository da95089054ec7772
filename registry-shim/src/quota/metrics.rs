//! What operators see of quotas. No project is a label: there may be thousands.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Clones share their values.
#[derive(Clone, Debug)]
pub struct QuotaMetrics {
    /// Pushes refused because charges leave no room.
    pub denied: Counter,
    /// Pushes refused because headroom was held, or the store did not answer.
    pub unavailable: Counter,
    /// Charges written.
    pub charges: Counter,
    /// Pushes of what the project paid for already.
    pub found: Counter,
    /// Charges written without a lease while a store is failed over, or restored beside a
    /// collection: the limit may be passed by them.
    pub approximate: Counter,
    /// Slots that this instance took.
    pub leases: Counter,
    /// Slots that somebody else took first.
    pub leases_lost: Counter,
    /// Pushes that wait for headroom now.
    pub waiting: Gauge,
    /// Listings of a project's charges.
    pub count_seconds: Histogram,
}

impl Default for QuotaMetrics {
    fn default() -> Self {
        Self {
            denied: Counter::default(),
            unavailable: Counter::default(),
            charges: Counter::default(),
            found: Counter::default(),
            approximate: Counter::default(),
            leases: Counter::default(),
            leases_lost: Counter::default(),
            waiting: Gauge::default(),
            // 1 ms to 87 s
            count_seconds: Histogram::new(exponential_buckets(0.001, 3.2, 11)),
        }
    }
}

impl QuotaMetrics {
    /// Enters the counters; the parent gives the prefix `longshore_registry_quota`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("denied", "Pushes over quota", self.denied.clone());
        registry.register("unavailable", "Pushes without an answer", self.unavailable.clone());
        registry.register("charges", "Charges written", self.charges.clone());
        registry.register("found", "Pushes of what was paid for", self.found.clone());
        registry.register("approximate", "Charges without a lease", self.approximate.clone());
        registry.register("leases", "Leases of headroom taken", self.leases.clone());
        registry.register("leases_lost", "Leases others took first", self.leases_lost.clone());
        registry.register("waiting", "Pushes that wait for headroom", self.waiting.clone());
        registry.register("count_seconds", "Listings of charges", self.count_seconds.clone());
    }
}
