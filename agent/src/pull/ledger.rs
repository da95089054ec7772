//! Where a blob's bytes came from, and why: what `longshore explain` shows.
//!
//! Owns counters only; whoever moves bytes records them here. Nothing is ever taken back.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Why bytes were read from the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginReason {
    /// The tracker gave leave: this node brings the piece into the cell.
    Permit,
    /// Nobody else delivered in time to a waiting client.
    Stall,
    /// The swarm is off, or the tracker can not be asked.
    Direct,
    /// It came inside the plan.
    Inline,
}

impl OriginReason {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Permit, Self::Stall, Self::Direct, Self::Inline];

    /// As metrics and operators name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Stall => "stall",
            Self::Direct => "direct",
            Self::Inline => "inline",
        }
    }
}

/// The record of one blob's download. Shared by all who wait for it.
#[derive(Debug, Default)]
pub struct BlobLedger(Mutex<Entries>);

/// A copy of a ledger's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Verified pieces and their bytes from the origin, in the order of [`OriginReason::ALL`].
    pub origin: [Amount; 4],
    /// Verified, from peers.
    pub peers: Amount,
    /// Already here when the pull began.
    pub local: Amount,
    /// Arrived and thrown away: duplicates, wrong bytes, cancelled requests.
    pub wasted: Amount,
    /// How many peers delivered something.
    pub delivering_peers: u32,
    started: Option<Instant>,
    finished: Option<Instant>,
}

/// Pieces and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Count of pieces.
    pub pieces: u64,
    /// Sum of their lengths.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.pieces += 1;
        self.bytes += bytes;
    }
}

impl Entries {
    /// From the first want to the last verified piece, or until now.
    pub fn elapsed(&self) -> Duration {
        let end = self.finished.unwrap_or_else(Instant::now);
        self.started.map_or(Duration::ZERO, |start| end.saturating_duration_since(start))
    }

    /// Whether the last piece was verified.
    pub const fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// Bytes from the origin, whatever the reason.
    pub fn origin_bytes(&self) -> u64 {
        self.origin.iter().map(|amount| amount.bytes).sum()
    }
}

impl BlobLedger {
    /// A verified piece came from the origin.
    pub fn from_origin(&self, why: OriginReason, bytes: u64) {
        self.edit(|entries| entries.origin[why as usize].add(bytes));
    }

    /// A verified piece came from a peer; `first` says whether it is that peer's first.
    pub fn from_peer(&self, bytes: u64, first: bool) {
        self.edit(|entries| {
            entries.peers.add(bytes);
            entries.delivering_peers += u32::from(first);
        });
    }

    /// A piece was here already.
    pub fn was_local(&self, bytes: u64) {
        self.edit(|entries| entries.local.add(bytes));
    }

    /// Bytes arrived for nothing.
    pub fn wasted(&self, bytes: u64) {
        self.edit(|entries| entries.wasted.add(bytes));
    }

    /// The download begins, unless it has.
    pub fn start(&self) {
        self.edit(|entries| {
            entries.started.get_or_insert_with(Instant::now);
        });
    }

    /// The last piece is verified.
    pub fn finish(&self) {
        self.edit(|entries| {
            entries.finished.get_or_insert_with(Instant::now);
        });
    }

    /// The state now.
    pub fn entries(&self) -> Entries {
        self.edit(|entries| entries.clone())
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Entries) -> T) -> T {
        edit(&mut self.0.lock().expect("nothing panics while it holds the ledger"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_reasons_apart() {
        let ledger = BlobLedger::default();
        ledger.start();
        ledger.from_origin(OriginReason::Stall, 5);
        ledger.from_origin(OriginReason::Permit, 7);
        ledger.from_peer(9, true);
        ledger.finish();
        let entries = ledger.entries();
        assert_eq!(entries.origin[OriginReason::Stall as usize], Amount { pieces: 1, bytes: 5 });
        assert_eq!((entries.origin_bytes(), entries.peers.bytes), (12, 9));
        assert_eq!(entries.elapsed(), ledger.entries().elapsed());
    }
}
