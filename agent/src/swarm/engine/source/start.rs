//! Which reads begin: those with leave, and the two kinds without it.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_proto::piece::PieceIndex;

use super::{Queued, Read};
use crate::pull::ledger::OriginReason;
use crate::swarm::engine::Engine;
use crate::swarm::engine::event::Output;
use crate::swarm::engine::limits::{DIRECT_RUN_MAX, READ_BYTES_MIN, READS_MAX, SCAN_MAX};
use crate::swarm::engine::peers::mix;
use crate::swarm::engine::pool::Rank;

/// Once a piece had to be read so, and until one comes as it should, others wait only this long.
const STALLING: Duration = Duration::from_millis(200);

impl Engine {
    /// Begins the reads for which there is room.
    pub(in crate::swarm::engine) fn start_reads(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.drop_expired(now);
        while now >= self.source.store_at && self.source.reads.len() < READS_MAX {
            let Some(at) = self.next_leave() else { break };
            let leave = &self.source.leaves[at];
            let bytes =
                self.pool.blob(leave.key).map_or(0, |blob| blob.bytes(leave.first, leave.pieces));
            if !self.has_room(bytes) {
                break;
            }
            let Some(leave) = self.source.leaves.remove(at) else { break };
            let (key, first, pieces) = (leave.key, leave.first, leave.pieces);
            for piece in first..first + pieces {
                self.pool.edit(key, piece, |known| known.permitted = false);
            }
            self.read(now, key, first, pieces, OriginReason::Permit, Some(leave), out);
        }
        self.read_without_leave(now, out);
    }

    fn has_room(&self, bytes: u64) -> bool {
        let (target, reading) =
            (self.source.target(self.limits.read_ahead), self.source.in_reads());
        reading < target / 2 || reading + bytes <= target
    }

    /// The leave for a waiting client's piece, or the oldest.
    fn next_leave(&self) -> Option<usize> {
        let urgent = self.urgent();
        let covers = |leave: &Queued| {
            let end = leave.first + leave.pieces;
            let its =
                |rank: &Rank| rank.blob == leave.key && (leave.first..end).contains(&rank.piece);
            urgent.iter().any(its)
        };
        let leaves = &self.source.leaves;
        leaves.iter().position(covers).or((!leaves.is_empty()).then_some(0))
    }

    fn read_without_leave(&mut self, now: Duration, out: &mut Vec<Output>) {
        if now < self.source.store_at {
            return;
        }
        let grace = self.limits.tracker_grace;
        let silent = self.source.silent_since.is_some_and(|since| now >= since + grace);
        while (self.limits.direct || silent)
            && self.source.reads.len() < READS_MAX
            && self.has_room(READ_BYTES_MIN)
        {
            let Some(rank) = self.choose_direct() else { break };
            let run = self.orphan_run(rank);
            self.read(now, rank.blob, rank.piece, run, OriginReason::Direct, None, out);
        }
        self.read_stalled(now, out);
    }

    /// A waiting client's piece; else, alone, the first piece, and among peers one by hash, so
    /// that nodes without a tracker bring different pieces.
    fn choose_direct(&self) -> Option<Rank> {
        let open = |rank: &&Rank| self.pool.blob(rank.blob).is_some_and(|blob| !blob.closed);
        let orphans = self.pool.orphans();
        let urgent = self.urgent().into_iter().find(|rank| orphans.contains(rank) && open(&rank));
        let first = || orphans.iter().find(open).copied();
        let turn =
            |rank: &&Rank| mix(self.seed ^ mix(u64::from(rank.blob) << 32 | u64::from(rank.piece)));
        let any = || orphans.iter().take(SCAN_MAX).filter(open).min_by_key(turn).copied();
        urgent.or_else(|| if self.peers.len() == 0 { first() } else { any() })
    }

    /// How many pieces from `rank` on can be read in one go.
    fn orphan_run(&self, rank: Rank) -> u32 {
        if self.peers.len() > 0 {
            return 1;
        }
        let next = |run: &u32| Rank { piece: rank.piece + run, ..rank };
        (1..DIRECT_RUN_MAX)
            .find(|run| !self.pool.orphans().contains(&next(run)))
            .unwrap_or(DIRECT_RUN_MAX)
    }

    /// Extra origin bytes for clients whose piece does not move, and for a pool that stands still.
    fn read_stalled(&mut self, now: Duration, out: &mut Vec<Output>) {
        let bound = if self.stalling { STALLING } else { self.limits.cursor_stall };
        let mut stalled: Vec<Rank> = self
            .waiting()
            .into_iter()
            .filter(|(_, since)| now >= *since + bound)
            .map(|(rank, _)| rank)
            .collect();
        if stalled.is_empty() && !self.pool.is_empty() && now >= self.moved_at + bound {
            let first = self.pool.orphans().first().into_iter().chain(self.pool.ready().first());
            stalled.extend(first.min());
        }
        for rank in stalled {
            let running = self.source.reads.values().filter(|r| r.why == OriginReason::Stall);
            let open = self.pool.blob(rank.blob).is_some_and(|blob| !blob.closed);
            let reading = self.source.read_piece(rank.blob, rank.piece).is_some();
            if running.count() < self.limits.stall_reads && open && !reading {
                self.stalling = true;
                self.read(now, rank.blob, rank.piece, 1, OriginReason::Stall, None, out);
            }
        }
    }

    /// When bytes last came for a piece that is on its way.
    pub(in crate::swarm::engine) fn moved_at(&self, rank: Rank) -> Option<Duration> {
        let asked = self.requests.values().filter(|r| r.key == rank.blob && r.piece == rank.piece);
        let moved = asked.filter_map(|request| Some(self.peers.get(request.slot)?.moved_at));
        moved.chain(self.source.read_piece(rank.blob, rank.piece).map(|read| read.moved_at)).max()
    }

    #[expect(clippy::too_many_arguments, reason = "a read is these seven facts")]
    fn read(
        &mut self,
        now: Duration,
        key: u32,
        first: u32,
        pieces: u32,
        why: OriginReason,
        leave: Option<Queued>,
        out: &mut Vec<Output>,
    ) {
        let Some(blob) = self.pool.blob(key) else { return };
        let left: BTreeSet<u32> = (first..first + pieces).filter(|at| blob.lacks(*at)).collect();
        if left.is_empty() {
            return;
        }
        let (digest, bytes) = (blob.digest, blob.bytes(first, pieces));
        left.iter().for_each(|piece| {
            self.pool.edit(key, *piece, |known| known.reads += 1);
        });
        let read = self.fresh_id();
        let permit = leave.as_ref().map(|leave| leave.permit.clone());
        let first = PieceIndex(first);
        out.push(Output::Read { read, digest, first, pieces, why, permit });
        let (received, dripped) = (0, 0);
        let running = Read { key, why, left, bytes, received, dripped, moved_at: now, leave };
        self.source.reads.insert(read, running);
    }
}
