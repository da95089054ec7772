//! The arithmetic of a lease: where the sequence of slots stands, and what a count proves.

use crate::storage::Slot;

/// What a listing of a project's charges says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of all charges.
    pub used: u64,
    /// Bytes of the largest.
    pub largest: u64,
    /// How many.
    pub charges: u64,
}

impl Tally {
    /// With one charge more.
    pub fn add(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
        self.charges += 1;
    }
}

/// Where the sequence of slots stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Of the highest slot; 0 before the first.
    pub(super) number: u64,
    /// Bytes newly granted by all slots.
    pub(super) granted_total: u64,
}

impl Chain {
    /// Of slots in order.
    pub(super) fn of(slots: &[Slot]) -> Self {
        slots.last().map_or_else(Self::default, |slot| Self {
            number: slot.number,
            granted_total: slot.granted_total,
        })
    }
}

/// A slot that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Bid {
    /// As it will be created.
    pub(super) slot: Slot,
    /// Until then its holder may charge; earlier than the slot's expiry.
    pub(super) use_until_ms: u64,
}

/// A count that is kept, so that not every lease needs another one.
#[derive(Debug)]
pub(super) struct Count {
    /// Charges and everything that could be charged when it was made.
    bound: u64,
    chain: Chain,
    at_ms: u64,
}

impl Count {
    pub(super) fn new(bound: u64, chain: &Chain, at_ms: u64) -> Self {
        Self { bound, chain: *chain, at_ms }
    }

    /// More than charges and leases can be now: they grow only by what new slots grant. `None`
    /// when it is too old, or when the sequence is not the one that it was made by.
    pub(super) fn bound_now(&self, chain: &Chain, now_ms: u64, age_ms_max: u64) -> Option<u64> {
        if now_ms.saturating_sub(self.at_ms) > age_ms_max || chain.number < self.chain.number {
            return None;
        }
        let granted = chain.granted_total.checked_sub(self.chain.granted_total)?;
        Some(self.bound.saturating_add(granted))
    }
}
