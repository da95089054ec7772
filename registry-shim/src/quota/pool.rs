//! One project's headroom as one instance holds it: who may charge how much, until when.
//!
//! A pure state machine: it does no I/O, and time comes as an argument. It decides what is leased,
//! granted, refused and given back; `keeper` does what it says and tells it what came of it. What
//! pushes ask is here, how headroom comes in `rounds`, how it goes in `giving_back`.
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

mod giving_back;
mod rounds;

use std::collections::BTreeMap;

use super::bid::{Bid, Count};
use crate::storage::Slot;

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
    /// Whether the count that is under way says nothing.
    count_is_void: bool,
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
            count_is_void: false,
            count_began: (0, 0),
            earliest_round_ms: 0,
            paused_until_ms: 0,
            pause_ms: 0,
        }
    }

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

    /// Charges were written elsewhere, past every lease: what was counted and leased before says
    /// nothing any more. What pushes hold asks for another lease.
    pub(super) fn distrust(&mut self) {
        self.count = None;
        self.count_is_void = true;
        self.lease = None;
        self.bid = None;
        self.changed();
    }

    /// Decisions since the last call: the ticket, its bytes, and what became of it.
    pub(super) fn decided(&mut self) -> Vec<(Ticket, u64, Decision)> {
        std::mem::take(&mut self.decided)
    }

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
}
