//! Reads under way: what they bring, when they are replaced, and how they end.

use std::time::Duration;

use super::{ASK_AGAIN_MAX, RETRY, Read};
use crate::pull::ledger::OriginReason;
use crate::swarm::engine::Engine;
use crate::swarm::engine::event::{FailReason, Output, ReadEnd, ReadId};
use crate::swarm::engine::limits::{BAD_READS_MAX, PROGRESS_BYTES_MIN};

/// Tries of a read under one permit.
const ATTEMPTS_MAX: u32 = 3;

impl Engine {
    pub(in crate::swarm::engine) fn on_read_progress(
        &mut self,
        now: Duration,
        id: ReadId,
        bytes: u64,
    ) {
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
    pub(in crate::swarm::engine) fn is_stall_read(&self, id: ReadId) -> bool {
        self.source.reads.get(&id).is_none_or(|read| read.why == OriginReason::Stall)
    }

    /// A piece of a read is through its verification, well or not.
    pub(in crate::swarm::engine) fn settle_read(&mut self, id: ReadId, piece: u32) {
        if let Some(read) = self.source.reads.get_mut(&id)
            && read.left.remove(&piece)
        {
            let key = read.key;
            self.pool.edit(key, piece, |known| known.reads = known.reads.saturating_sub(1));
        }
    }

    pub(in crate::swarm::engine) fn on_bad_read(&mut self, key: u32, out: &mut Vec<Output>) {
        let Some(blob) = self.pool.blob_mut(key) else { return };
        blob.bad_reads += 1;
        let digest = blob.digest;
        if blob.bad_reads >= BAD_READS_MAX {
            self.fail(&digest, FailReason::BadOrigin, out);
        }
    }

    pub(in crate::swarm::engine) fn on_read_ended(
        &mut self,
        now: Duration,
        id: ReadId,
        end: ReadEnd,
    ) {
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
    pub(in crate::swarm::engine) fn check_reads(&mut self, now: Duration, out: &mut Vec<Output>) {
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
    pub(in crate::swarm::engine) fn cancel_read_of(
        &mut self,
        key: u32,
        piece: u32,
        out: &mut Vec<Output>,
    ) {
        let only =
            |read: &Read| read.key == key && read.left.len() == 1 && read.left.contains(&piece);
        let its = self.source.reads.iter().filter(|(_, read)| only(read));
        for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            out.push(Output::CancelRead(id));
            self.on_read_ended(Duration::ZERO, id, ReadEnd::Whole);
        }
    }

    /// Ends the reads of a blob that is gone.
    pub(in crate::swarm::engine) fn cancel_reads(&mut self, key: u32, out: &mut Vec<Output>) {
        let its = self.source.reads.iter().filter(|(_, read)| read.key == key);
        for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.source.reads.remove(&id);
            out.push(Output::CancelRead(id));
        }
        self.source.leaves.retain(|leave| leave.key != key);
    }
}
