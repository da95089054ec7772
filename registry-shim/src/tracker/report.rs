//! Holders that others do not reach.
//!
//! One report may be one node's own network; two of distinct members open the piece again, and
//! the holder does not count for it for a while, whatever it announces.

use std::collections::BTreeMap;

use super::blob::{Blob, BlobId};
use super::cell::Cell;
use super::limits::REPORTS_KEPT_MAX;
use super::member::MemberId;
use super::request::Unreachable;

/// Reports that wait for a second one, and holders that do not count.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By holder and piece: who reported it, until when that counts.
    waiting: BTreeMap<(MemberId, BlobId, u32), (MemberId, u64)>,
    /// By holder and piece: until when it does not count.
    shunned: BTreeMap<(MemberId, BlobId, u32), u64>,
}

impl Reports {
    /// The pieces of a blob for which the holder does not count now.
    pub(super) fn shunned(&self, holder: MemberId, blob: BlobId, now_ms: u64) -> Vec<u32> {
        if self.shunned.is_empty() {
            return Vec::new();
        }
        let pieces = (holder, blob, 0)..=(holder, blob, u32::MAX);
        let now = self.shunned.range(pieces).filter(|(_, until_ms)| **until_ms > now_ms);
        now.map(|((_, _, piece), _)| *piece).collect()
    }

    pub(super) fn forget(&mut self, member: MemberId) {
        let all = (member, BlobId(0), 0)..=(member, BlobId(u64::MAX), u32::MAX);
        let keys: Vec<_> = self.waiting.range(all.clone()).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| {
            self.waiting.remove(key);
        });
        let keys: Vec<_> = self.shunned.range(all).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| {
            self.shunned.remove(key);
        });
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        self.waiting.retain(|_, (_, until_ms)| *until_ms > now_ms);
        self.shunned.retain(|_, until_ms| *until_ms > now_ms);
    }

    /// Notes a report; true when it is the second one.
    fn note(
        &mut self,
        key: (MemberId, BlobId, u32),
        reporter: MemberId,
        now_ms: u64,
        until_ms: u64,
        alone: bool,
    ) -> bool {
        let earlier = self.waiting.get(&key).filter(|(_, until_ms)| *until_ms > now_ms);
        let second = earlier.is_some_and(|(by, _)| *by != reporter);
        if second || alone {
            self.waiting.remove(&key);
            let room = self.shunned.len() < REPORTS_KEPT_MAX;
            if room {
                self.shunned.insert(key, until_ms);
            }
            return room;
        }
        if self.waiting.len() < REPORTS_KEPT_MAX || earlier.is_some() {
            self.waiting.insert(key, (reporter, until_ms));
        }
        false
    }
}

impl Cell {
    /// Takes a member's reports. Where only two members are alive nobody could second a report,
    /// so one is enough.
    pub(super) fn report(&mut self, reporter: MemberId, reports: &[Unreachable]) {
        let period = self.now_ms / u64::from(self.config.announce_period_ms.max(1));
        let (now_ms, until_ms) = (self.now_ms, self.now_ms + self.silence_ms());
        let alone = self.members.len() <= 2;
        for report in reports {
            let Some(holder) = self.by_peer.get(&report.peer_id).copied() else {
                continue;
            };
            for blob_id in self.blobs_of(report.digest) {
                if !self.is_plausible(reporter, holder, blob_id, report.piece) {
                    continue;
                }
                let counts = self.members.get_mut(&reporter).is_some_and(|m| m.may_report(period));
                let key = (holder, blob_id, report.piece);
                if counts && self.reports.note(key, reporter, now_ms, until_ms, alone) {
                    self.discount(holder, blob_id, report.piece);
                }
            }
        }
    }

    /// The holder is said to have, or to fetch, what the reporter lacks.
    fn is_plausible(
        &self,
        reporter: MemberId,
        holder: MemberId,
        blob_id: BlobId,
        piece: u32,
    ) -> bool {
        let says_so = |blob: &Blob| {
            (blob.holds(holder, piece) || blob.permit_of(piece, holder).is_some())
                && !blob.holds(reporter, piece)
        };
        reporter != holder && self.blobs.get(&blob_id).is_some_and(says_so)
    }

    fn discount(&mut self, holder: MemberId, blob_id: BlobId, piece: u32) {
        self.reopen(blob_id, piece, holder);
        let Some(held) = self.blobs.get(&blob_id).and_then(|blob| blob.held(holder)) else {
            return;
        };
        // `hold` leaves out what is shunned, and this piece now is.
        self.hold(holder, blob_id, held);
    }
}
