//! One project's headroom as one instance holds it: who may charge how much, until when.
//!
//! A pure state machine: it does no I/O, and time comes as an argument. It decides what is leased,
//! granted, refused and given back; `keeper` does what it says and tells it what came of it.
//!
//! What must stay true, whatever crashes: the charges in the store, plus what every live lease may
//! still charge, are never more than the limit. Three rules keep it.
//!
//! - Slots are looked at before charges are counted. A lease that ended before the look has all its
//!   charges in the count; one that lives is held to have all its bytes still to spend.
//! - A lease grows only by a new slot, whose number conflicts with every grant since the look. It
//!   shrinks in place, after its holder has begun to keep to less.
//! - [`Pool::begin_spend`] alone lets a charge be written, and never more of them than the lease
//!   has, nor, while a new slot is asked for, than that one will have.
//!
//! A reservation is a promise to one push within the lease; it protects nobody but that push.

use std::collections::BTreeMap;

use super::bid::{Bid, Chain, Count, Tally};
use crate::storage::Slot;

/// Shortest time between two rounds: a full project shall not list its charges without a pause.
const ROUND_PAUSE_MS: u64 = 20;
/// Longest, while nothing changes and somebody waits.
const ROUND_PAUSE_MS_MAX: u64 = 1000;
/// Rounds of a slow listing are not further apart than this.
const ROUND_PACE_MS_MAX: u64 = 5000;
/// Unused headroom is looked at this often while somebody waits.
const WAITED_TICK_MS: u64 = 100;

/// What one instance goes by in one project.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes that the project may have.
    pub(super) limit: u64,
    /// Bytes leased at most beyond what is asked for.
    pub(super) lease_bytes_max: u64,
    /// How long a lease is used.
    pub(super) use_ms: u64,
    /// How much later everybody else takes it as over: clocks differ, and a write may be late.
    pub(super) grace_ms: u64,
    /// How often unused headroom is looked at.
    pub(super) tick_ms: u64,
    /// How old a count may be that headroom is leased by.
    pub(super) count_age_ms_max: u64,
}

/// Names one who waits.
pub(super) type Ticket = u64;

/// What became of one who waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The bytes are reserved.
    Granted,
    /// The charges alone leave no room for them.
    Denied {
        /// Bytes charged.
        used: u64,
        /// Of the largest charge: nothing larger can be paid for already.
        largest: u64,
    },
    /// The store failed.
    Unavailable,
}

/// What a charge's Create came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there, by this write.
    Created,
    /// It was there before.
    Found,
    /// Nobody knows, and it may still arrive: it counts as there.
    Unknown,
}

/// How a bid ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The slot is ours.
    Won,
    /// Somebody was faster.
    Lost,
    /// Nobody knows: the slot is not used, and is over in its time.
    Unknown,
}

#[derive(Debug)]
struct Lease {
    slot: Slot,
    /// Bytes that this lease was for, less what was given back.
    bytes: u64,
    spent: u64,
    use_until_ms: u64,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    /// Counts begun when it came: a later one has seen everything from before.
    since: u64,
}

/// One project in one instance.
#[derive(Debug)]
pub(super) struct Pool {
    terms: Terms,
    instance: String,
    lease: Option<Lease>,
    bid: Option<Bid>,
    /// Promised to pushes under way.
    reserved: u64,
    /// Charges whose Create is under way, or was given up and may still arrive.
    spending: u64,
    /// Those that were given up, and when none of them arrives any more.
    doubtful: Vec<(u64, u64)>,
    /// Charged since the count or the bid began: it may be missing from the count.
    since: u64,
    spent_in_tick: u64,
    ticked_ms: u64,
    waiting: BTreeMap<Ticket, Waiter>,
    next_ticket: Ticket,
    decided: Vec<(Ticket, u64, Decision)>,
    count: Option<Count>,
    counts_begun: u64,
    /// When the count began and what the lease had left then.
    count_began: (u64, u64),
    earliest_round_ms: u64,
    paused_until_ms: u64,
    pause_ms: u64,
}

impl Pool {
    pub(super) fn new(terms: Terms, instance: String) -> Self {
        Self {
            terms,
            instance,
            lease: None,
            bid: None,
            reserved: 0,
            spending: 0,
            doubtful: Vec::new(),
            since: 0,
            spent_in_tick: 0,
            ticked_ms: 0,
            waiting: BTreeMap::new(),
            next_ticket: 0,
            decided: Vec::new(),
            count: None,
            counts_begun: 0,
            count_began: (0, 0),
            earliest_round_ms: 0,
            paused_until_ms: 0,
            pause_ms: 0,
        }
    }

    // --- what pushes ask ---

    /// Reserves from what is leased; whether there was enough.
    pub(super) fn reserve(&mut self, bytes: u64, now_ms: u64) -> bool {
        let enough = bytes <= self.available(now_ms);
        if enough {
            self.reserved += bytes;
        }
        enough
    }

    /// Waits for a decision.
    pub(super) fn enqueue(&mut self, bytes: u64) -> Ticket {
        self.next_ticket += 1;
        self.waiting.insert(self.next_ticket, Waiter { bytes, since: self.counts_begun });
        self.changed();
        self.next_ticket
    }

    /// Waits no more; whether it was still waiting.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    /// Gives a reservation back.
    pub(super) fn release(&mut self, bytes: u64, now_ms: u64) {
        debug_assert!(bytes <= self.reserved, "only what was reserved is given back");
        self.reserved = self.reserved.saturating_sub(bytes);
        self.changed();
        self.grant(now_ms);
    }

    /// Lets a charge of `bytes` be written out of a reservation of `held`, until the time that is
    /// returned. `None`: the lease ended meanwhile, the reservation stands and has to ask again.
    pub(super) fn begin_spend(&mut self, held: u64, bytes: u64, now_ms: u64) -> Option<u64> {
        if bytes > held || bytes > self.remaining(now_ms) {
            return None;
        }
        let until = self.lease.as_ref()?.use_until_ms;
        self.reserved = self.reserved.saturating_sub(held);
        self.spending += bytes;
        self.grant(now_ms);
        Some(until)
    }

    /// The charge was written, or not.
    pub(super) fn end_spend(&mut self, bytes: u64, written: Written, now_ms: u64) {
        match written {
            Written::Found => self.end_writing(bytes, 0),
            Written::Created => self.end_writing(bytes, bytes),
            // It may arrive after a count, so it is held as under way.
            Written::Unknown => self.doubtful.push((bytes, now_ms + self.terms.grace_ms)),
        }
        self.changed();
        self.grant(now_ms);
    }

    /// Decisions since the last call: the ticket, its bytes, and what became of it.
    pub(super) fn decided(&mut self) -> Vec<(Ticket, u64, Decision)> {
        std::mem::take(&mut self.decided)
    }

    // --- rounds: look, perhaps count, bid, settle ---

    /// Whether it is time to look at the slots.
    pub(super) fn wants_round(&self, now_ms: u64) -> bool {
        self.next_round_ms().is_some_and(|at| at <= now_ms)
    }

    /// Bids for what is wanted if an earlier count proves that there is room for all of it:
    /// usage has grown since by no more than what was newly granted.
    pub(super) fn bid_by_earlier_count(&mut self, slots: &[Slot], now_ms: u64) -> Option<Bid> {
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
    pub(super) fn begin_count(&mut self, now_ms: u64) {
        self.end_doubts(now_ms);
        self.since = 0;
        self.counts_begun += 1;
        self.count_began = (now_ms, self.unspent(now_ms));
    }

    /// Decides with the count that began after `slots` were read: refuses whom the charges alone
    /// leave no room, and bids for those who fit.
    pub(super) fn bid_by_count(
        &mut self,
        slots: &[Slot],
        tally: Tally,
        now_ms: u64,
    ) -> Option<Bid> {
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
    pub(super) fn settle(&mut self, outcome: Outcome, now_ms: u64) {
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
    pub(super) fn end_round(&mut self, began_ms: u64, now_ms: u64, jitter_ms: u64) {
        self.bid = None;
        let took_ms = now_ms.saturating_sub(began_ms).min(ROUND_PACE_MS_MAX);
        self.earliest_round_ms = now_ms + took_ms.max(ROUND_PAUSE_MS) + jitter_ms;
        self.pause_ms = (self.pause_ms * 2).clamp(ROUND_PAUSE_MS, ROUND_PAUSE_MS_MAX);
        self.paused_until_ms = now_ms + self.pause_ms;
    }

    /// The store failed: nobody waits on.
    pub(super) fn fail_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let failed =
            waiting.into_iter().map(|(ticket, w)| (ticket, w.bytes, Decision::Unavailable));
        self.decided.extend(failed);
    }

    /// Slots of the look that no longer matter: the highest of them all is never among them.
    pub(super) fn over(&self, slots: &[Slot], looked_ms: u64) -> Vec<u64> {
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

    // --- giving back ---

    /// Gives back once per tick what is spent or not used: the slot to write, if there is one. A slot
    /// says what its holder had when it was written, and what was charged since is counted twice by
    /// everybody else. What went to pushes in the last tick stays twice over, so that steady traffic need not ask each time. While
    /// somebody waits nothing stays: it is too small for them, and with what others hold as well it
    /// may not be.
    pub(super) fn shrink(&mut self, now_ms: u64) -> Option<Slot> {
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
    pub(super) fn close(&mut self) -> Option<Slot> {
        self.fail_waiting();
        self.give_back(0)
    }

    /// When something is to be done without anybody asking.
    pub(super) fn wakes_at_ms(&self) -> Option<u64> {
        let tick = self.lease.as_ref().map(|_| self.next_tick_ms());
        [self.next_round_ms(), tick].into_iter().flatten().min()
    }

    /// Whether it holds nothing and nobody asks anything of it.
    pub(super) fn is_idle(&self) -> bool {
        self.lease.is_none() && self.waiting.is_empty() && self.reserved + self.spending == 0
    }

    // --- within ---

    /// What the lease may still charge, the writes under way included.
    fn unspent(&self, now_ms: u64) -> u64 {
        let lease = self.lease.as_ref().filter(|lease| now_ms < lease.use_until_ms);
        lease.map_or(0, |lease| lease.bytes.saturating_sub(lease.spent))
    }

    /// What may be charged beyond the writes under way: by the lease, and by the one that is asked
    /// for, since either may be what holds in the end.
    fn remaining(&self, now_ms: u64) -> u64 {
        let by_lease = self.unspent(now_ms).saturating_sub(self.spending);
        let by_bid = self.bid.as_ref().map_or(u64::MAX, |bid| {
            bid.slot.bytes.saturating_sub(self.since).saturating_sub(self.spending)
        });
        by_lease.min(by_bid)
    }

    fn available(&self, now_ms: u64) -> u64 {
        self.remaining(now_ms).saturating_sub(self.reserved)
    }

    fn end_writing(&mut self, bytes: u64, spent: u64) {
        debug_assert!(bytes <= self.spending, "only what was begun ends");
        self.spending = self.spending.saturating_sub(bytes);
        self.since = self.since.saturating_add(spent);
        self.spent_in_tick = self.spent_in_tick.saturating_add(spent);
        if let Some(lease) = &mut self.lease {
            lease.spent = lease.spent.saturating_add(spent);
        }
    }

    /// What has not arrived by now never will; whether it has, the next count says.
    fn end_doubts(&mut self, now_ms: u64) {
        let ended: Vec<u64> =
            self.doubtful.extract_if(.., |(_, at)| *at <= now_ms).map(|(bytes, _)| bytes).collect();
        for bytes in ended {
            self.end_writing(bytes, bytes);
        }
    }

    fn next_tick_ms(&self) -> u64 {
        let tick_ms = self.terms.tick_ms;
        let waited_for = !self.waiting.is_empty();
        self.ticked_ms + if waited_for { tick_ms.min(WAITED_TICK_MS) } else { tick_ms }
    }

    fn changed(&mut self) {
        self.pause_ms = 0;
        self.paused_until_ms = 0;
    }

    /// Whoever fits, in the order in which they came; one that does not fit holds up nobody.
    fn grant(&mut self, now_ms: u64) {
        let mut available = self.available(now_ms);
        if self.waiting.is_empty() || available == 0 {
            return;
        }
        let mut granted = Vec::new();
        for (ticket, waiter) in &self.waiting {
            if waiter.bytes <= available {
                available -= waiter.bytes;
                granted.push((*ticket, waiter.bytes, Decision::Granted));
            }
        }
        for (ticket, bytes, _) in &granted {
            self.waiting.remove(ticket);
            self.reserved += bytes;
        }
        self.decided.append(&mut granted);
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

    fn next_round_ms(&self) -> Option<u64> {
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
}
