//! What the swarm counts, the origin's bytes among it: they are counted where they are verified.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::room;
use crate::pull::ledger::OriginReason;

/// Why bytes were read from the origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

/// Counters of the swarm; clones count together.
#[derive(Clone, Debug, Default)]
pub struct SwarmMetrics {
    /// Payload of verified pieces from peers.
    pub received_bytes: Counter,
    /// Payload handed to connections with peers whole.
    pub sent_bytes: Counter,
    /// Bytes that arrived for nothing: wrong, twice, or cancelled.
    pub wasted_bytes: Counter,
    /// Pieces from peers that were wrong. Not those of the origin.
    pub bad_pieces: Counter,
    /// Pieces from the origin that were wrong.
    pub origin_bad_pieces: Counter,
    /// Requests taken back because the peer sent nothing.
    pub stalled_requests: Counter,
    /// Requests of peers that were told BUSY.
    pub busy_answers: Counter,
    /// Requests of peers that were refused.
    pub refused_requests: Counter,
    /// Dials that led to nothing.
    pub dial_failures: Counter,
    /// Connected peers.
    pub peers: Gauge,
    origin_received: Family<Why, Counter>,
}

impl SwarmMetrics {
    /// Below the root: `longshore_swarm_…` and `longshore_origin_received_bytes_total`.
    pub fn register(root: &mut Registry) -> Self {
        let metrics = Self::default();
        for why in OriginReason::ALL {
            metrics.from_origin(why, 0);
        }
        let counters: [(&str, &str, &Counter); 8] = [
            ("received_bytes", "Verified payload from peers", &metrics.received_bytes),
            ("sent_bytes", "Payload sent to peers", &metrics.sent_bytes),
            ("wasted_bytes", "Bytes that arrived for nothing", &metrics.wasted_bytes),
            ("bad_pieces", "Wrong pieces from peers", &metrics.bad_pieces),
            ("stalled_requests", "Requests to peers that sent nothing", &metrics.stalled_requests),
            ("busy_answers", "Requests of peers told BUSY", &metrics.busy_answers),
            ("refused_requests", "Requests of peers refused", &metrics.refused_requests),
            ("dial_failures", "Dials that led to nothing", &metrics.dial_failures),
        ];
        let swarm = room(root, "swarm");
        for (name, help, counter) in counters {
            swarm.register(name, help, counter.clone());
        }
        swarm.register("peers", "Connected peers", metrics.peers.clone());
        let origin = room(root, "origin");
        let received = metrics.origin_received.clone();
        origin.register("received_bytes", "Verified bytes from the origin, by reason", received);
        let bad = metrics.origin_bad_pieces.clone();
        origin.register("bad_pieces", "Wrong pieces from the origin", bad);
        metrics
    }

    /// Verified bytes came from the origin.
    pub fn from_origin(&self, why: OriginReason, bytes: u64) {
        self.origin_received.get_or_create(&Why { why: why.name() }).inc_by(bytes);
    }

    /// Where bytes are counted that came inside the origin's plans: the pull room's to count.
    pub fn inline_bytes(&self) -> Counter {
        self.origin_received.get_or_create(&Why { why: OriginReason::Inline.name() }).clone()
    }

    /// Verified bytes that came from the origin, whatever the reason.
    pub fn origin_bytes(&self) -> u64 {
        let of =
            |why: OriginReason| self.origin_received.get_or_create(&Why { why: why.name() }).get();
        OriginReason::ALL.into_iter().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let mut registry = crate::metrics::registry();
        let metrics = SwarmMetrics::register(&mut registry);
        metrics.from_origin(OriginReason::Stall, 7);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "longshore_swarm_received_bytes_total 0\n",
            "longshore_swarm_sent_bytes_total 0\n",
            "longshore_swarm_bad_pieces_total 0\n",
            "longshore_swarm_stalled_requests_total 0\n",
            "longshore_swarm_peers 0\n",
            "longshore_origin_received_bytes_total{why=\"stall\"} 7\n",
            "longshore_origin_received_bytes_total{why=\"inline\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert_eq!(metrics.origin_bytes(), 7);
    }
}
