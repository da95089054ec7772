//! Counters of the regions, one of each per home.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A home.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RegionLabels {
    /// As the configuration names it.
    pub(super) region: String,
}

/// A probe and its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ProbeLabels {
    /// The home.
    pub(super) region: String,
    /// `primary`, `replica`; `redirect_primary`, `redirect_replica` for the data path.
    pub(super) way: &'static str,
    /// `ok`, `failed`
    pub(super) outcome: &'static str,
}

/// Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct RegionMetrics {
    state: Family<RegionLabels, Gauge>,
    failovers: Family<RegionLabels, Counter>,
    pending_writes: Family<RegionLabels, Gauge>,
    replayed_writes: Family<RegionLabels, Counter>,
    replication_queue: Family<RegionLabels, Gauge>,
    replication_lag_seconds: Family<RegionLabels, Gauge<f64, AtomicU64>>,
    replicated: Family<RegionLabels, Counter>,
    probes: Family<ProbeLabels, Counter>,
}

/// The values of one home.
#[derive(Clone, Debug)]
pub(super) struct HomeMetrics {
    region: String,
    /// 0 primary, 1 catching up, 2 failed over.
    pub(super) state: Gauge,
    /// Times that the primary was given up; a single call that moved is none.
    pub(super) failovers: Counter,
    /// Writes made without the primary that it does not have yet, of all instances.
    pub(super) pending_writes: Gauge,
    /// Those that it was given.
    pub(super) replayed_writes: Counter,
    /// Objects written by this instance that the replica does not have yet.
    pub(super) replication_queue: Gauge,
    /// Age of the oldest of them.
    pub(super) replication_lag_seconds: Gauge<f64, AtomicU64>,
    /// Those that it was given, deletions included.
    pub(super) replicated: Counter,
    probes: Family<ProbeLabels, Counter>,
}

impl RegionMetrics {
    pub(super) fn home(&self, name: &str) -> HomeMetrics {
        let labels = RegionLabels { region: name.to_owned() };
        HomeMetrics {
            region: name.to_owned(),
            state: self.state.get_or_create_owned(&labels),
            failovers: self.failovers.get_or_create_owned(&labels),
            pending_writes: self.pending_writes.get_or_create_owned(&labels),
            replayed_writes: self.replayed_writes.get_or_create_owned(&labels),
            replication_queue: self.replication_queue.get_or_create_owned(&labels),
            replication_lag_seconds: self.replication_lag_seconds.get_or_create_owned(&labels),
            replicated: self.replicated.get_or_create_owned(&labels),
            probes: self.probes.clone(),
        }
    }

    /// Enters the counters; the parent gives the prefix.
    pub fn register(&self, to: &mut Registry) {
        let text = "0 on its primary store, 1 catching up, 2 failed over";
        to.register("state", text, self.state.clone());
        to.register("failovers", "Times the primary store was given up", self.failovers.clone());
        let text = "Writes made without the primary store that it does not have yet";
        to.register("pending_writes", text, self.pending_writes.clone());
        let text = "Writes brought to the primary store after its return";
        to.register("replayed_writes", text, self.replayed_writes.clone());
        let text = "Objects that wait to be copied to the replica";
        to.register("replication_queue", text, self.replication_queue.clone());
        let text = "Age of the oldest object that waits to be copied to the replica";
        to.register("replication_lag_seconds", text, self.replication_lag_seconds.clone());
        to.register("replicated", "Objects copied to the replica", self.replicated.clone());
        to.register("probes", "Probes of stores and of their data paths", self.probes.clone());
    }
}

impl HomeMetrics {
    pub(super) fn probed(&self, way: &'static str, went_well: bool) {
        let outcome = if went_well { "ok" } else { "failed" };
        let labels = ProbeLabels { region: self.region.clone(), way, outcome };
        self.probes.get_or_create(&labels).inc();
    }
}
