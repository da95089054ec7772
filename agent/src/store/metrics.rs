//! What the store counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of the store; clones count together.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Pieces that arrived, were right and were stored. Not those found on disk at start.
    pub pieces_verified: Counter,
    /// Pieces of an earlier process that are still held; those of another boot once verified.
    pub resumed_pieces: Counter,
    /// Pieces found damaged on disk, and dropped.
    pub corrupt_pieces: Counter,
    /// Blobs that went for lack of room.
    pub evicted_blobs: Counter,
    /// Times that there was no room and nothing to evict, or the disk said so.
    pub full: Counter,
    /// Blobs here, whole or partial.
    pub blobs: Gauge,
    /// Bytes of pieces on disk.
    pub bytes: Gauge,
}

impl StoreMetrics {
    /// Under the names `<prefix>_pieces_verified_total` and so on.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { pieces_verified, resumed_pieces, corrupt_pieces, evicted_blobs, full, .. } =
            &metrics;
        let counters: [(&str, &str, &Counter); 5] = [
            ("pieces_verified", "Pieces verified and stored", pieces_verified),
            ("resumed_pieces", "Pieces of an earlier process still held", resumed_pieces),
            ("corrupt_pieces", "Pieces found damaged on disk and dropped", corrupt_pieces),
            ("evicted_blobs", "Blobs evicted for room", evicted_blobs),
            ("full", "Writes refused because there was no room", full),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("blobs", "Blobs held, whole or partial", metrics.blobs.clone());
        registry.register("bytes", "Bytes of pieces on disk", metrics.bytes.clone());
        metrics
    }
}
