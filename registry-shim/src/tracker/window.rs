//! Three small governors of a cell: bytes in flight from the store, extra copies, who asks.

/// Where the window begins.
const WINDOW_START_BYTES: u64 = 32 << 20;
/// It never shrinks below this: a few pieces of any length.
const WINDOW_MIN_BYTES: u64 = 16 << 20;
/// It never grows above this: 4 GiB of permits is far beyond any link's delay.
const WINDOW_MAX_BYTES: u64 = 4 << 30;
/// A piece that is here this soon after its permit says that the store could do more.
const FAST_MS: u64 = 1_000;
/// One that takes this long says that too many read at once.
const SLOW_MS: u64 = 5_000;
/// The window shrinks to three quarters, once in this time.
const SHRINK_EVERY_MS: u64 = SLOW_MS;
/// An extra copy costs one whole permit, in percent.
const EXTRA_COST: u32 = 100;
/// Extra copies that may come at the start, or saved up, at once.
const EXTRA_START: u32 = 2 * EXTRA_COST;
const EXTRA_SAVED_MAX: u32 = 32 * EXTRA_COST;
/// Askers are counted over this long.
const ASKERS_PERIOD_MS: u64 = 500;

/// How many bytes the cell may be reading from the store.
///
/// One copy has to come through the store's link whatever happens; more reads at once than fill it
/// only make each piece late for the swarm and, with hundreds of nodes on a slow link, all of them
/// miss their deadline. So it grows while pieces come fast and shrinks while they come late.
#[derive(Debug)]
pub(super) struct Window {
    bytes: u64,
    in_flight: u64,
    shrunk_ms: u64,
}

/// The budget of extra copies of a cell, a token bucket filled by ordinary permits.
#[derive(Debug)]
pub(super) struct ExtraBudget {
    saved: u32,
    percent: u32,
}

/// How many members ask for permits now.
#[derive(Debug, Default)]
pub(super) struct Askers {
    period: u64,
    current: u32,
    previous: u32,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { bytes: WINDOW_START_BYTES, in_flight: 0, shrunk_ms: 0 }
    }

    pub(super) const fn admits(&self, bytes: u64) -> bool {
        self.in_flight == 0 || self.in_flight + bytes <= self.bytes
    }

    #[cfg(test)]
    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) const fn opened(&mut self, bytes: u64) {
        self.in_flight += bytes;
    }

    /// A permit is over, for whatever reason.
    pub(super) const fn closed(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// A piece of `bytes` came `took_ms` after its permit; tell this before [`Self::closed`].
    pub(super) fn arrived(&mut self, now_ms: u64, took_ms: u64, bytes: u64) {
        if took_ms > SLOW_MS {
            self.shrink(now_ms);
        } else if took_ms <= FAST_MS && self.in_flight * 2 >= self.bytes {
            self.bytes = (self.bytes + bytes).min(WINDOW_MAX_BYTES);
        }
    }

    pub(super) fn shrink(&mut self, now_ms: u64) {
        if now_ms >= self.shrunk_ms + SHRINK_EVERY_MS {
            self.bytes = (self.bytes / 4 * 3).max(WINDOW_MIN_BYTES);
            self.shrunk_ms = now_ms;
        }
    }
}

impl ExtraBudget {
    pub(super) const fn new(percent: u32) -> Self {
        Self { saved: if percent == 0 { 0 } else { EXTRA_START }, percent }
    }

    pub(super) fn earn(&mut self) {
        self.saved = self.saved.saturating_add(self.percent).min(EXTRA_SAVED_MAX);
    }

    pub(super) fn spend(&mut self) -> bool {
        let left = self.saved.checked_sub(EXTRA_COST);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

impl Askers {
    /// Counts an ask of a member whose last one was in `last`; the period to remember comes back.
    pub(super) const fn count(&mut self, now_ms: u64, last: Option<u64>) -> u64 {
        let period = now_ms / ASKERS_PERIOD_MS;
        if period != self.period {
            self.previous = if period == self.period + 1 { self.current } else { 0 };
            self.current = 0;
            self.period = period;
        }
        if !matches!(last, Some(last) if last == period) {
            self.current += 1;
        }
        period
    }

    pub(super) fn active(&self) -> u32 {
        self.current.max(self.previous)
    }

    /// How many share the store, once there was a whole period to count them in.
    pub(super) fn settled(&self) -> Option<u32> {
        (self.previous > 0).then(|| self.active())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_window_grows_while_pieces_come_fast_and_shrinks_once_while_they_come_late() {
        let mut window = Window::new();
        window.opened(WINDOW_START_BYTES);
        assert!(!window.admits(MIB));
        window.arrived(100, 100, MIB);
        assert!(window.admits(MIB));
        window.arrived(10_000, 9_000, MIB);
        window.arrived(10_001, 9_000, MIB);
        assert_eq!(window.bytes, (WINDOW_START_BYTES + MIB) / 4 * 3);
        (2..40).for_each(|n| window.shrink(n * SHRINK_EVERY_MS));
        assert_eq!(window.bytes, WINDOW_MIN_BYTES);
    }

    #[test]
    fn a_piece_longer_than_the_window_still_goes_alone() {
        let mut window = Window::new();
        assert!(window.admits(WINDOW_MAX_BYTES * 2));
        window.opened(1);
        assert!(!window.admits(WINDOW_MAX_BYTES * 2));
    }

    #[test]
    fn twenty_permits_earn_one_extra_copy() {
        let mut budget = ExtraBudget::new(5);
        assert!(budget.spend() && budget.spend() && !budget.spend());
        (0..19).for_each(|_| budget.earn());
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend() && !budget.spend());
    }

    #[test]
    fn askers_are_not_few_before_a_whole_period_has_passed() {
        let mut askers = Askers::default();
        let first = askers.count(0, None);
        assert_eq!(askers.settled(), None);
        let second = askers.count(ASKERS_PERIOD_MS, Some(first));
        assert_eq!(askers.settled(), Some(1));
        askers.count(ASKERS_PERIOD_MS, Some(second));
        assert_eq!(askers.settled(), Some(1));
        askers.count(ASKERS_PERIOD_MS + 1, None);
        assert_eq!(askers.settled(), Some(2));
        askers.count(9 * ASKERS_PERIOD_MS, None);
        assert_eq!(askers.settled(), None);
    }
}
