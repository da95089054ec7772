//! Leave to read the store: asked of the tracker, kept in a queue until it is used or too old.

use std::time::Duration;

use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::{ASK_AGAIN_MAX, ASK_GAP, Queued, RETRY};
use crate::swarm::engine::Engine;
use crate::swarm::engine::event::{Leave, Output, PermitAsk, PermitReply, PermitWant};
use crate::swarm::engine::limits::{PERMIT_WANTS_MAX, READ_BYTES_MIN, READS_MAX};
use crate::swarm::engine::pool::Blob;

/// Wait after an answer without leave that names no time.
const ASK_AGAIN: Duration = Duration::from_millis(400);

impl Engine {
    /// Asks the tracker for leave where there is room and something that no peer has.
    pub(in crate::swarm::engine) fn ask_tracker(&mut self, now: Duration, out: &mut Vec<Output>) {
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

    pub(in crate::swarm::engine) fn held_leave(&self) -> Vec<(Digest, PieceIndex, u64)> {
        let reading = self.source.reads.values().filter_map(|read| read.leave.as_ref());
        reading
            .chain(&self.source.leaves)
            .flat_map(|leave| {
                let pieces = leave.first..leave.first + leave.pieces;
                pieces.map(|piece| (leave.digest, PieceIndex(piece), leave.permit.permit_id))
            })
            .collect()
    }

    pub(in crate::swarm::engine) fn on_permits(&mut self, now: Duration, reply: PermitReply) {
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

    pub(in crate::swarm::engine) fn on_permits_failed(
        &mut self,
        now: Duration,
        retry_after: Option<Duration>,
    ) {
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
    pub(in crate::swarm::engine) fn on_granted(
        &mut self,
        now: Duration,
        leaves: Vec<Leave>,
    ) -> usize {
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
            let open = |blob: &Blob| blob.lacks(*piece) && blob.pieces[*piece as usize].is_idle();
            blob.is_some_and(open)
        })
    }

    pub(super) fn drop_expired(&mut self, now: Duration) {
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
}
