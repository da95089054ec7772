//! Giving back: headroom that nobody uses, once per tick and at the end.

use super::Pool;
use crate::storage::Slot;

/// Unused headroom is looked at this often while somebody waits.
const WAITED_TICK_MS: u64 = 100;

impl Pool {
    /// Gives back once per tick what is spent or not used: the slot to write, if there is one. A slot
    /// says what its holder had when it was written, and what was charged since is counted twice by
    /// everybody else. What went to pushes in the last tick stays twice over, so that steady
    /// traffic need not ask each time. While somebody waits nothing stays: it is too small for
    /// them, and with what others hold as well it may not be.
    pub(in crate::quota) fn shrink(&mut self, now_ms: u64) -> Option<Slot> {
        if now_ms < self.next_tick_ms() || self.bid.is_some() {
            return None;
        }
        self.ticked_ms = now_ms;
        self.end_doubts(now_ms);
        let spent = std::mem::take(&mut self.spent_in_tick);
        let keep = if self.waiting.is_empty() { spent.saturating_mul(2) } else { 0 };
        if self.lease.as_ref().is_some_and(|lease| lease.use_until_ms <= now_ms) {
            // Over by itself, and nobody may say otherwise; what pushes hold asks for another.
            self.lease = None;
            return None;
        }
        self.give_back(keep.min(self.available(now_ms)))
    }

    /// Gives everything back that no push holds: the instance ends.
    pub(in crate::quota) fn close(&mut self) -> Option<Slot> {
        self.fail_waiting();
        self.give_back(0)
    }

    /// When something is to be done without anybody asking.
    pub(in crate::quota) fn wakes_at_ms(&self) -> Option<u64> {
        let tick = self.lease.as_ref().map(|_| self.next_tick_ms());
        [self.next_round_ms(), tick].into_iter().flatten().min()
    }

    /// Whether it holds nothing and nobody asks anything of it.
    pub(in crate::quota) fn is_idle(&self) -> bool {
        self.lease.is_none() && self.waiting.is_empty() && self.reserved + self.spending == 0
    }

    fn give_back(&mut self, keep: u64) -> Option<Slot> {
        let wanted = self.spending + self.reserved + keep;
        let lease = self.lease.as_mut()?;
        let kept = wanted.min(lease.bytes.saturating_sub(lease.spent));
        if kept >= lease.slot.bytes {
            return None;
        }
        lease.bytes = lease.spent.saturating_add(kept);
        lease.slot.bytes = kept;
        let slot = lease.slot.clone();
        if kept == 0 {
            self.lease = None;
        }
        Some(slot)
    }

    fn next_tick_ms(&self) -> u64 {
        let tick_ms = self.terms.tick_ms;
        let waited_for = !self.waiting.is_empty();
        self.ticked_ms + if waited_for { tick_ms.min(WAITED_TICK_MS) } else { tick_ms }
    }
}
