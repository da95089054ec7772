//! Rounds: look at the slots, perhaps count the charges, bid for a slot, settle.

use super::{Decision, Lease, Outcome, Pool, Waiter};
use crate::quota::bid::{Bid, Chain, Count, Tally};
use crate::storage::Slot;

/// Shortest time between two rounds: a full project shall not list its charges without a pause.
const ROUND_PAUSE_MS: u64 = 20;
/// Longest, while nothing changes and somebody waits.
const ROUND_PAUSE_MS_MAX: u64 = 1000;
/// Rounds of a slow listing are not further apart than this.
const ROUND_PACE_MS_MAX: u64 = 5000;

impl Pool {
    /// Whether it is time to look at the slots.
    pub(in crate::quota) fn wants_round(&self, now_ms: u64) -> bool {
        self.next_round_ms().is_some_and(|at| at <= now_ms)
    }

    /// Bids for what is wanted if an earlier count proves that there is room for all of it:
    /// usage has grown since by no more than what was newly granted.
    pub(in crate::quota) fn bid_by_earlier_count(
        &mut self,
        slots: &[Slot],
        now_ms: u64,
    ) -> Option<Bid> {
        let chain = Chain::of(slots);
        let age_max = self.terms.count_age_ms_max;
        let bound = self.count.as_ref()?.bound_now(&chain, now_ms, age_max)?;
        let own = self.unspent(now_ms);
        let free = self.terms.limit.saturating_add(own).saturating_sub(bound);
        let wanted = self.waiting.values().fold(0, |sum: u64, w| sum.saturating_add(w.bytes));
        let committed = self.spending + self.reserved;
        if committed.saturating_add(wanted) > free || !self.needs_bid(wanted, now_ms) {
            return None;
        }
        self.since = 0;
        Some(self.bid(&chain, free, wanted, now_ms))
    }

    /// A count begins: after the slots were read, before the charges are listed.
    pub(in crate::quota) fn begin_count(&mut self, now_ms: u64) {
        self.end_doubts(now_ms);
        self.since = 0;
        self.counts_begun += 1;
        self.count_is_void = false;
        self.count_began = (now_ms, self.unspent(now_ms));
    }

    /// Decides with the count that began after `slots` were read: refuses whom the charges alone
    /// leave no room, and bids for those who fit.
    pub(in crate::quota) fn bid_by_count(
        &mut self,
        slots: &[Slot],
        tally: Tally,
        now_ms: u64,
    ) -> Option<Bid> {
        if self.count_is_void {
            return None;
        }
        let (began_ms, own_then) = self.count_began;
        let chain = Chain::of(slots);
        // A lease that ended while the charges were listed may have charges that are in no list.
        let leased_by_others = slots
            .iter()
            .filter(|slot| slot.instance != self.instance && slot.expires_at_ms >= began_ms)
            .fold(0, |sum: u64, slot| sum.saturating_add(slot.bytes));
        let taken = tally.used.saturating_add(leased_by_others);
        self.count = Some(Count::new(taken.saturating_add(own_then), &chain, began_ms));
        self.refuse(tally);
        let free = self.terms.limit.saturating_sub(taken);
        let committed = self.since + self.spending + self.reserved;
        let wanted = self.fitting(free.saturating_sub(committed));
        // Less than what is being charged already: the old lease has to do.
        if self.since + self.spending > free || !self.needs_bid(wanted, now_ms) {
            return None;
        }
        Some(self.bid(&chain, free, wanted, now_ms))
    }

    /// How the bid ended.
    pub(in crate::quota) fn settle(&mut self, outcome: Outcome, now_ms: u64) {
        let Some(bid) = self.bid.take() else { return };
        if outcome != Outcome::Won {
            return;
        }
        if self.lease.is_none() {
            self.ticked_ms = now_ms;
        }
        self.lease = Some(Lease {
            bytes: bid.slot.bytes,
            spent: self.since,
            use_until_ms: bid.use_until_ms,
            slot: bid.slot,
        });
        self.pause_ms = 0;
        self.paused_until_ms = 0;
        self.grant(now_ms);
    }

    /// The round is over; `began_ms` is when it began, `jitter_ms` keeps two losers apart.
    pub(in crate::quota) fn end_round(&mut self, began_ms: u64, now_ms: u64, jitter_ms: u64) {
        self.bid = None;
        let took_ms = now_ms.saturating_sub(began_ms).min(ROUND_PACE_MS_MAX);
        self.earliest_round_ms = now_ms + took_ms.max(ROUND_PAUSE_MS) + jitter_ms;
        self.pause_ms = (self.pause_ms * 2).clamp(ROUND_PAUSE_MS, ROUND_PAUSE_MS_MAX);
        self.paused_until_ms = now_ms + self.pause_ms;
    }

    /// The store failed: nobody waits on.
    pub(in crate::quota) fn fail_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let failed =
            waiting.into_iter().map(|(ticket, w)| (ticket, w.bytes, Decision::Unavailable));
        self.decided.extend(failed);
    }

    /// Slots of the look that no longer matter: the highest of them all is never among them.
    pub(in crate::quota) fn over(&self, slots: &[Slot], looked_ms: u64) -> Vec<u64> {
        let own = self.lease.as_ref().map_or(0, |lease| lease.slot.number);
        let highest = slots.last().map_or(0, |slot| slot.number).max(own);
        let is_over = |slot: &&Slot| {
            slot.number != own
                && slot.number < highest
                && (slot.instance == self.instance
                    || slot.bytes == 0
                    || slot.expires_at_ms < looked_ms)
        };
        slots.iter().filter(is_over).map(|slot| slot.number).collect()
    }

    fn refuse(&mut self, tally: Tally) {
        let (limit, counts) = (self.terms.limit, self.counts_begun);
        let denied = Decision::Denied { used: tally.used, largest: tally.largest };
        let no_room = |waiter: &Waiter| {
            waiter.since < counts && tally.used.saturating_add(waiter.bytes) > limit
        };
        let refused = self.waiting.extract_if(.., |_, waiter| no_room(waiter));
        self.decided.extend(refused.map(|(ticket, waiter)| (ticket, waiter.bytes, denied)));
    }

    /// Bytes of those who would be let in with so much room.
    fn fitting(&self, room: u64) -> u64 {
        self.waiting.values().fold(0, |taken, waiter| {
            if waiter.bytes <= room - taken { taken + waiter.bytes } else { taken }
        })
    }

    fn needs_bid(&self, wanted: u64, now_ms: u64) -> bool {
        wanted > 0 || self.is_due(now_ms)
    }

    /// Whether pushes hold something that the lease will not cover for long.
    fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms().is_some_and(|at| at <= now_ms)
    }

    fn due_ms(&self) -> Option<u64> {
        if self.reserved + self.spending == 0 {
            return None;
        }
        Some(self.lease.as_ref().map_or(0, |lease| lease.use_until_ms - self.terms.use_ms / 2))
    }

    pub(super) fn next_round_ms(&self) -> Option<u64> {
        let waiting = (!self.waiting.is_empty()).then_some(0);
        let wanted = [waiting, self.due_ms()].into_iter().flatten().min()?;
        Some(wanted.max(self.earliest_round_ms).max(self.paused_until_ms))
    }

    fn bid(&mut self, chain: &Chain, free: u64, wanted: u64, now_ms: u64) -> Bid {
        let asked = self.since + self.spending + self.reserved + wanted;
        let all = self.waiting.values().fold(0, |sum: u64, w| sum.saturating_add(w.bytes));
        // Whoever is left waiting needs it, here or elsewhere.
        let spare_max = if wanted < all { 0 } else { self.terms.lease_bytes_max };
        let spare = (free.saturating_sub(asked) / 4).min(spare_max);
        let bytes = (asked + spare).min(free);
        let bid = Bid {
            use_until_ms: now_ms + self.terms.use_ms,
            slot: Slot {
                number: chain.number + 1,
                instance: self.instance.clone(),
                bytes,
                granted_total: chain.granted_total + bytes.saturating_sub(self.unspent(now_ms)),
                expires_at_ms: now_ms + self.terms.use_ms + self.terms.grace_ms,
            },
        };
        self.bid = Some(bid.clone());
        bid
    }
}
