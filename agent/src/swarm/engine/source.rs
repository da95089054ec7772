//! The store as a source: leave from the tracker, reads, and reads without leave.
//!
//! Owns how much is read at once (what arrives in `read_ahead`, so that a piece spends little time
//! on its way and the pipe is never empty), when the tracker is asked, and the two cases in which
//! the store is read without its leave: it is silent, or a client waits and nobody delivers.

mod permits;
mod running;
mod start;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;

use super::event::ReadId;
use super::limits::{READ_BYTES_MAX, READ_BYTES_MIN, UNREACHABLE_MAX};
use crate::pull::ledger::OriginReason;

/// Least time between two questions to the tracker.
const ASK_GAP: Duration = Duration::from_millis(50);
/// Longest wait that a tracker may impose.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// First wait after a failure of the tracker or the store; doubles up to 16 times this.
const RETRY: Duration = Duration::from_millis(200);
/// How often the rate of the store is sampled.
const SAMPLE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Source {
    asking: bool,
    asked_at: Duration,
    ask_at: Duration,
    silent_since: Option<Duration>,
    tracker_failures: u32,
    leaves: VecDeque<Queued>,
    reads: BTreeMap<ReadId, Read>,
    /// Bytes per second that the store gives this node.
    rate: u64,
    sampled: u64,
    sampled_at: Duration,
    store_at: Duration,
    store_failures: u32,
    unreachable: VecDeque<(PeerId, Digest, PieceIndex)>,
}

/// Leave that waits for its read.
#[derive(Clone, Debug)]
struct Queued {
    key: u32,
    digest: Digest,
    first: u32,
    pieces: u32,
    permit: Arc<rpc::PiecePermit>,
    expires_at: Duration,
    attempts: u32,
}

#[derive(Debug)]
struct Read {
    key: u32,
    why: OriginReason,
    left: BTreeSet<u32>,
    bytes: u64,
    received: u64,
    dripped: u64,
    moved_at: Duration,
    leave: Option<Queued>,
}

impl Source {
    /// A holder did not serve a piece: the tracker shall know.
    pub(super) fn report(&mut self, peer: PeerId, digest: Digest, piece: PieceIndex) {
        let report = (peer, digest, piece);
        if self.unreachable.len() < UNREACHABLE_MAX && !self.unreachable.contains(&report) {
            self.unreachable.push_back(report);
        }
    }

    pub(super) fn take_reports(&mut self) -> Vec<(PeerId, Digest, PieceIndex)> {
        self.unreachable.drain(..).collect()
    }

    /// Something changed: ask at once, within the least gap.
    pub(super) fn hurry(&mut self) {
        self.ask_at = self.ask_at.min(self.asked_at + ASK_GAP * 2);
    }

    fn target(&self, read_ahead: Duration) -> u64 {
        let bytes = self.rate.saturating_mul(read_ahead.as_millis() as u64) / 1000;
        bytes.clamp(READ_BYTES_MIN, READ_BYTES_MAX)
    }

    fn in_reads(&self) -> u64 {
        self.reads.values().map(|read| read.bytes.saturating_sub(read.received)).sum()
    }

    fn sample(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.sampled_at);
        if elapsed >= SAMPLE {
            let rate = self.sampled.saturating_mul(1000) / elapsed.as_millis().max(1) as u64;
            self.rate = if rate > self.rate { rate } else { (self.rate * 3 + rate) / 4 };
            self.sampled = 0;
            self.sampled_at = now;
        }
    }

    fn read_piece(&self, key: u32, piece: u32) -> Option<&Read> {
        self.reads.values().find(|read| read.key == key && read.left.contains(&piece))
    }
}
