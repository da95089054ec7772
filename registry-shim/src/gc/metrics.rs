//! Counters of background collections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Report;

/// What some freed objects were.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// As [`super::Kind::name`].
    pub kind: &'static str,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `done`, `busy`, `waits`, `failed`
    pub outcome: &'static str,
}

/// Of this instance's runs; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct GcMetrics {
    /// Runs that ended, also those that never began.
    pub runs: Family<OutcomeLabels, Counter>,
    /// Objects that finished runs deleted.
    pub freed_objects: Family<KindLabels, Counter>,
    /// Their bytes.
    pub freed_bytes: Family<KindLabels, Counter>,
    /// Objects that wait for their grace, by the last finished run.
    pub waiting_objects: Gauge,
    /// Unix seconds of the last finished run; 0 before.
    pub finished_at_seconds: Gauge,
    /// 1 while a run is under way.
    pub running: Gauge,
}

impl GcMetrics {
    /// Enters the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("runs", "Collections, by outcome", self.runs.clone());
        let freed = self.freed_objects.clone();
        registry.register("freed_objects", "Objects deleted, by kind", freed);
        registry.register("freed_bytes", "Bytes deleted, by kind", self.freed_bytes.clone());
        let waiting = self.waiting_objects.clone();
        registry.register("waiting_objects", "Garbage whose grace is not over", waiting);
        let finished = self.finished_at_seconds.clone();
        registry.register("finished_at_seconds", "When the last collection finished", finished);
        registry.register("running", "Whether a collection is under way", self.running.clone());
    }

    /// A run ended.
    pub fn ended(&self, outcome: &'static str) {
        self.runs.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// A run finished.
    pub fn finished(&self, report: &Report, now_ms: u64) {
        self.ended("done");
        for (kind, tally) in &report.kinds {
            let labels = KindLabels { kind: kind.name() };
            self.freed_objects.get_or_create(&labels).inc_by(tally.freed_objects);
            self.freed_bytes.get_or_create(&labels).inc_by(tally.freed_bytes);
        }
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.waiting_objects.set(signed(report.total().waiting_objects));
        self.finished_at_seconds.set(signed(now_ms / 1000));
    }
}
