//! The store as a source: leave from the tracker, reads, and reads without leave.
//!
//! Owns how much is read at once (what arrives in `read_ahead`, so that a piece spends little time
//! on its way and the pipe is never empty), when the tracker is asked, and the two cases in which
//! the store is read without its leave: it is silent, or a client waits and nobody delivers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;

use super::Engine;
use super::event::{
    FailReason, Leave, Output, PermitAsk, PermitReply, PermitWant, ReadEnd, ReadId,
};
use super::limits::{
    BAD_READS_MAX, DIRECT_RUN_MAX, PERMIT_WANTS_MAX, PROGRESS_BYTES_MIN, READ_BYTES_MAX,
    READ_BYTES_MIN, READS_MAX, SCAN_MAX, UNREACHABLE_MAX,
};
use super::peers::mix;
use super::pool::Rank;
use crate::pull::ledger::OriginReason;

/// Least time between two questions to the tracker.
const ASK_GAP: Duration = Duration::from_millis(50);
/// Wait after an answer without leave that names no time.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// Longest wait that a tracker may impose.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// First wait after a failure of the tracker or the store; doubles up to 16 times this.
const RETRY: Duration = Duration::from_millis(200);
/// Tries of a read under one permit.
const ATTEMPTS_MAX: u32 = 3;
/// Once a piece had to be read so, and until one comes as it should, others wait only this long.
const STALLING: Duration = Duration::from_millis(200);
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

impl Engine {
    /// Asks the tracker for leave where there is room and something that no peer has.
    pub(super) fn ask_tracker(&mut self, now: Duration, out: &mut Vec<Output>) {
        let source = &self.source;
        if self.limits.direct || source.asking || now < source.ask_at {
            return;
        }
        let urgent = self.urgent().into_iter().any(|rank| self.pool.orphans().contains(&rank));
        let queued = |leave: &Queued| {
            self.pool.blob(leave.key).map_or(0, |blob| blob.bytes(leave.first, leave.pieces))
        };
        let outstanding = source.in_reads() + source.leaves.iter().map(queued).sum::<u64>();
        let room = (source.target(self.limits.read_ahead) + READ_BYTES_MIN)
            .saturating_sub(outstanding)
            .max(if urgent && source.leaves.len() < READS_MAX { 1 } else { 0 });
        let wants = self.permit_wants();
        let Some(typical) = wants.first().and_then(|want| self.pool.key(&want.digest)) else {
            return;
        };
        if room == 0 {
            return;
        }
        let piece_bytes = self.pool.blob(typical).map_or(READ_BYTES_MIN, |blob| blob.piece_bytes);
        let pieces_max = room.div_ceil(piece_bytes.max(1)).min(u64::from(u32::MAX)) as u32;
        let held = self.held_leave();
        let source = &mut self.source;
        let unreachable = source.take_reports();
        source.asking = true;
        source.asked_at = now;
        source.ask_at = now + ASK_GAP;
        out.push(Output::AskPermits(PermitAsk { wants, held, unreachable, pieces_max }));
    }

    fn permit_wants(&self) -> Vec<PermitWant> {
        let urgent = self.urgent();
        self.pool
            .in_order()
            .filter(|(key, blob)| !blob.closed && self.pool.orphans_of(*key).next().is_some())
            .take(PERMIT_WANTS_MAX)
            .map(|(key, blob)| {
                let its = urgent.iter().filter(|rank| rank.blob == key);
                let waiting = its.filter(|rank| self.pool.orphans().contains(rank));
                let urgent = waiting.map(|rank| PieceIndex(rank.piece)).collect();
                PermitWant { digest: blob.digest, held: blob.held.clone(), urgent }
            })
            .collect()
    }

    pub(super) fn held_leave(&self) -> Vec<(Digest, PieceIndex, u64)> {
        let reading = self.source.reads.values().filter_map(|read| read.leave.as_ref());
        reading
            .chain(&self.source.leaves)
            .flat_map(|leave| {
                let pieces = leave.first..leave.first + leave.pieces;
                pieces.map(|piece| (leave.digest, PieceIndex(piece), leave.permit.permit_id))
            })
            .collect()
    }

    pub(super) fn on_permits(&mut self, now: Duration, reply: PermitReply) {
        self.source.asking = false;
        self.source.silent_since = None;
        self.source.tracker_failures = 0;
        for (digest, piece, holders) in reply.refusals {
            for peer in holders {
                if !self.peers.name(now, peer, digest, piece) {
                    self.source.report(peer, digest, piece);
                }
            }
        }
        if self.on_granted(now, reply.permits) == 0 {
            let wait = reply.retry_after.unwrap_or(ASK_AGAIN).clamp(ASK_GAP, ASK_AGAIN_MAX);
            self.source.ask_at = now + wait;
        }
    }

    pub(super) fn on_permits_failed(&mut self, now: Duration, retry_after: Option<Duration>) {
        let source = &mut self.source;
        source.asking = false;
        let wait = match retry_after {
            Some(wait) => wait.clamp(ASK_GAP, ASK_AGAIN_MAX),
            None => {
                source.silent_since.get_or_insert(source.asked_at);
                source.tracker_failures += 1;
                RETRY * (1 << (source.tracker_failures - 1).min(4))
            }
        };
        source.ask_at = now + wait;
    }

    /// Queues leave; returns how many of it are of use.
    pub(super) fn on_granted(&mut self, now: Duration, leaves: Vec<Leave>) -> usize {
        leaves.into_iter().filter(|leave| self.queue(now, leave)).count()
    }

    fn queue(&mut self, now: Duration, leave: &Leave) -> bool {
        let (first, pieces) = (leave.permit.first_piece, leave.permit.pieces);
        let Some(key) = self.pool.key(&leave.digest) else { return false };
        let fits = self.pool.blob(key).is_some_and(|blob| {
            let end = first.checked_add(pieces);
            pieces > 0 && end.is_some_and(|end| end as usize <= blob.pieces.len())
        });
        let useful = fits && self.idle_pieces(key, first, pieces).next().is_some();
        if useful {
            for piece in self.idle_pieces(key, first, pieces).collect::<Vec<_>>() {
                self.pool.edit(key, piece, |known| known.permitted = true);
            }
            let expires_at = now + Duration::from_millis(u64::from(leave.permit.deadline_ms));
            let (digest, permit) = (leave.digest, leave.permit.clone());
            let queued = Queued { key, digest, first, pieces, permit, expires_at, attempts: 0 };
            self.source.leaves.push_back(queued);
        }
        useful
    }

    fn idle_pieces(&self, key: u32, first: u32, pieces: u32) -> impl Iterator<Item = u32> {
        let blob = self.pool.blob(key);
        (first..first + pieces).filter(move |piece| {
            let open = |blob: &super::pool::Blob| {
                blob.lacks(*piece) && blob.pieces[*piece as usize].is_idle()
            };
            blob.is_some_and(open)
        })
    }

    /// Begins the reads for which there is room.
    pub(super) fn start_reads(&mut self, now: Duration, out: &mut Vec<Output>) {
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

    fn drop_expired(&mut self, now: Duration) {
        let leaves = std::mem::take(&mut self.source.leaves);
        for leave in leaves {
            let alive = leave.expires_at > now && self.pool.blob(leave.key).is_some();
            if alive {
                self.source.leaves.push_back(leave);
            } else {
                self.release(&leave);
            }
        }
    }

    fn release(&mut self, leave: &Queued) {
        for piece in leave.first..leave.first + leave.pieces {
            self.pool.edit(leave.key, piece, |known| known.permitted = false);
        }
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
    pub(super) fn moved_at(&self, rank: Rank) -> Option<Duration> {
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

    pub(super) fn on_read_progress(&mut self, now: Duration, id: ReadId, bytes: u64) {
        self.source.sampled += bytes;
        let Some(read) = self.source.reads.get_mut(&id) else { return };
        read.received += bytes;
        read.dripped += bytes;
        if read.dripped >= PROGRESS_BYTES_MIN {
            read.dripped = 0;
            read.moved_at = now;
            self.moved_at = now;
        }
    }

    /// Whether the read is one of those for which nobody gave leave because nothing moved.
    pub(super) fn is_stall_read(&self, id: ReadId) -> bool {
        self.source.reads.get(&id).is_none_or(|read| read.why == OriginReason::Stall)
    }

    /// A piece of a read is through its verification, well or not.
    pub(super) fn settle_read(&mut self, id: ReadId, piece: u32) {
        if let Some(read) = self.source.reads.get_mut(&id)
            && read.left.remove(&piece)
        {
            let key = read.key;
            self.pool.edit(key, piece, |known| known.reads = known.reads.saturating_sub(1));
        }
    }

    pub(super) fn on_bad_read(&mut self, key: u32, out: &mut Vec<Output>) {
        let Some(blob) = self.pool.blob_mut(key) else { return };
        blob.bad_reads += 1;
        let digest = blob.digest;
        if blob.bad_reads >= BAD_READS_MAX {
            self.fail(&digest, FailReason::BadOrigin, out);
        }
    }

    pub(super) fn on_read_ended(&mut self, now: Duration, id: ReadId, end: ReadEnd) {
        let Some(read) = self.source.reads.remove(&id) else { return };
        for piece in &read.left {
            self.pool.edit(read.key, *piece, |known| known.reads = known.reads.saturating_sub(1));
        }
        match end {
            ReadEnd::Whole => self.source.store_failures = 0,
            ReadEnd::Unavailable => self.back_off(now, None),
            ReadEnd::Busy(wait) => self.back_off(now, Some(wait)),
            ReadEnd::Closed => {
                let direct = read.leave.is_none();
                if let Some(blob) = self.pool.blob_mut(read.key) {
                    blob.bad_reads += 1;
                    blob.closed = direct || blob.bad_reads >= BAD_READS_MAX;
                }
            }
        }
        let again = matches!(end, ReadEnd::Unavailable | ReadEnd::Busy(_)) && !read.left.is_empty();
        if let Some(mut leave) = read.leave.filter(|_| again) {
            leave.attempts += 1;
            if leave.attempts < ATTEMPTS_MAX && self.pool.blob(leave.key).is_some() {
                for piece in read.left {
                    self.pool.edit(leave.key, piece, |known| known.permitted = true);
                }
                self.source.leaves.push_front(leave);
            }
        }
    }

    fn back_off(&mut self, now: Duration, wait: Option<Duration>) {
        let source = &mut self.source;
        source.store_failures += 1;
        let usual = RETRY * (1 << (source.store_failures - 1).min(4));
        source.store_at = now + wait.unwrap_or(usual).min(ASK_AGAIN_MAX);
    }

    /// Replaces reads that stand still, and books the store's rate.
    pub(super) fn check_reads(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.source.sample(now);
        let bound = self.limits.read_stall;
        let reads = self.source.reads.iter();
        let stalled: Vec<ReadId> =
            reads.filter(|(_, read)| now >= read.moved_at + bound).map(|(id, _)| *id).collect();
        for id in stalled {
            out.push(Output::CancelRead(id));
            self.on_read_ended(now, id, ReadEnd::Unavailable);
        }
    }

    /// Ends reads that were for this piece alone, which came from elsewhere.
    pub(super) fn cancel_read_of(&mut self, key: u32, piece: u32, out: &mut Vec<Output>) {
        let only =
            |read: &Read| read.key == key && read.left.len() == 1 && read.left.contains(&piece);
        let its = self.source.reads.iter().filter(|(_, read)| only(read));
        for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            out.push(Output::CancelRead(id));
            self.on_read_ended(Duration::ZERO, id, ReadEnd::Whole);
        }
    }

    /// Ends the reads of a blob that is gone.
    pub(super) fn cancel_reads(&mut self, key: u32, out: &mut Vec<Output>) {
        let its = self.source.reads.iter().filter(|(_, read)| read.key == key);
        for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.source.reads.remove(&id);
            out.push(Output::CancelRead(id));
        }
        self.source.leaves.retain(|leave| leave.key != key);
    }
}
