//! What pulls count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of pulls; clones count together.
#[derive(Clone, Debug, Default)]
pub struct PullMetrics {
    /// Blobs whose fetching began: once however many ask, not for blobs already whole.
    pub blob_downloads_started: Counter,
    /// Blobs whose last piece was verified.
    pub blob_downloads_finished: Counter,
    /// Blobs that were given up.
    pub blob_downloads_failed: Counter,
    /// Bytes that were here already when a pull of their blob began.
    pub local_bytes: Counter,
    /// Plans asked of the origin, once however many wait for one.
    pub plans: Counter,
    /// Plans that the origin could not give and a peer or the disk did.
    pub plans_without_origin: Counter,
    /// Verified bytes that came inside the origin's plans: manifests, configurations, small layers.
    /// The agent counts them with the other bytes from the origin, so it is registered there.
    pub inline_bytes: Counter,
    /// Answers for a tag that the origin could not confirm.
    pub stale_tags: Counter,
}

impl PullMetrics {
    /// Under the names `<prefix>_blob_downloads_started_total` and so on.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self {
            blob_downloads_started,
            blob_downloads_finished,
            blob_downloads_failed,
            local_bytes,
            plans,
            plans_without_origin,
            stale_tags,
            inline_bytes: _,
        } = &metrics;
        let counters: [(&str, &str, &Counter); 7] = [
            ("blob_downloads_started", "Blobs whose fetching began", blob_downloads_started),
            ("blob_downloads_finished", "Blobs that became whole", blob_downloads_finished),
            ("blob_downloads_failed", "Blobs that were given up", blob_downloads_failed),
            ("local_bytes", "Bytes already here when a pull began", local_bytes),
            ("plans", "Plans asked of the origin", plans),
            ("plans_without_origin", "Plans from a peer or the disk", plans_without_origin),
            ("stale_tags", "Tags answered without the origin's word", stale_tags),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}
