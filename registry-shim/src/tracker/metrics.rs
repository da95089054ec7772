//! What the tracker counts.
//!
//! A cell keeps a plain [`Tally`] so that it stays pure; the shell adds it here after each call.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters over all cells of this instance.
#[derive(Clone, Debug, Default)]
pub struct TrackerMetrics {
    /// Members of all cells.
    pub members: Gauge,
    /// Announces taken, those that were told to resync included.
    pub announces: Counter,
    /// Pieces given to be read from the store, extra copies included.
    pub permits_given: Counter,
    /// Pieces given although a member held or fetched them.
    pub permits_extra: Counter,
    /// Pieces named in refusals.
    pub permits_refused: Counter,
    /// Pieces whose permit passed its deadline.
    pub permits_expired: Counter,
    /// Pieces that lost their last holder or permit before their time: by two reports, an expired
    /// permit, or a member that went away.
    pub pieces_reopened: Counter,
}

/// What happened in a cell since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) members: i64,
    pub(super) announces: u64,
    pub(super) given: u64,
    pub(super) extra: u64,
    pub(super) refused: u64,
    pub(super) expired: u64,
    pub(super) reopened: u64,
}

impl TrackerMetrics {
    /// Under the names `<prefix>_members`, `<prefix>_permits_given_total` and so on.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("members", "Members of all cells", self.members.clone());
        for (name, help, counter) in [
            ("announces", "Announces taken", &self.announces),
            ("permits_given", "Pieces given to be read from the store", &self.permits_given),
            (
                "permits_extra",
                "Pieces given although a member held or fetched them",
                &self.permits_extra,
            ),
            ("permits_refused", "Pieces named in refusals", &self.permits_refused),
            ("permits_expired", "Pieces whose permit passed its deadline", &self.permits_expired),
            (
                "pieces_reopened",
                "Pieces that lost their last holder or permit",
                &self.pieces_reopened,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn add(&self, tally: Tally) {
        self.members.inc_by(tally.members);
        self.announces.inc_by(tally.announces);
        self.permits_given.inc_by(tally.given);
        self.permits_extra.inc_by(tally.extra);
        self.permits_refused.inc_by(tally.refused);
        self.permits_expired.inc_by(tally.expired);
        self.pieces_reopened.inc_by(tally.reopened);
    }
}
