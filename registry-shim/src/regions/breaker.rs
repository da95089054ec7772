//! When a store counts as away: a state machine without I/O, clock or randomness of its own.
//!
//! Requests report how their calls ended. Three failures in a row, or half of many, open the
//! breaker: from then on requests leave the store alone and only probes ask it. It closes after
//! two probes in a row that went well. A store that comes and goes is probed less and less often,
//! up to a bound, so that flapping costs a failover at most every so often.

use std::time::Duration;

use tokio::time::Instant;

/// What opens and closes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Failures in a row that open it.
    pub(super) failures_in_a_row: u32,
    /// Calls of a window below which no rate is taken.
    pub(super) calls_min: u32,
    /// The window that a rate is taken over: this one and the one before.
    pub(super) window: Duration,
    /// Probes in a row that close it.
    pub(super) successes_in_a_row: u32,
    /// Before the first probe of an open breaker.
    pub(super) probe_first: Duration,
    /// Longest time between two of them.
    pub(super) probe_max: Duration,
    /// Between two probes of a closed one: a store that nobody asks goes away unseen.
    pub(super) probe_closed: Duration,
    /// An opening sooner than this after a closing is flapping.
    pub(super) steady: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failures_in_a_row: 3,
            calls_min: 20,
            window: Duration::from_secs(10),
            successes_in_a_row: 2,
            probe_first: Duration::from_secs(1),
            probe_max: Duration::from_secs(15),
            probe_closed: Duration::from_secs(5),
            steady: Duration::from_secs(60),
        }
    }
}

/// The breaker of one way to one store.
#[derive(Debug)]
pub(super) struct Breaker {
    policy: Policy,
    state: State,
    /// Openings in a row that came too soon after a closing.
    flaps: u32,
    closed_at: Instant,
}

#[derive(Debug)]
enum State {
    Closed { in_a_row: u32, current: Window, previous: Window, probe_at: Instant },
    Open { successes: u32, failures: u32, probe_at: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    calls: u32,
    failures: u32,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The store is away from now on.
    Opened,
    /// The store is back.
    Closed,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(policy: Policy, now: Instant) -> Self {
        Self { policy, state: closed(&policy, now), flaps: 0, closed_at: now }
    }

    /// Whether requests may ask the store.
    #[cfg(test)]
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// A request's call ended. A late end of a call from before the opening changes nothing.
    pub(super) fn called(&mut self, went_well: bool, now: Instant) -> Change {
        let State::Closed { in_a_row, current, previous, .. } = &mut self.state else {
            return Change::None;
        };
        if now.duration_since(current.begun) >= self.policy.window {
            *previous = *current;
            *current = Window { begun: now, calls: 0, failures: 0 };
        }
        current.calls += 1;
        if went_well {
            *in_a_row = 0;
            return Change::None;
        }
        *in_a_row += 1;
        current.failures += 1;
        let recent = now.duration_since(previous.begun) < self.policy.window * 2;
        let (mut calls, mut failures) = (current.calls, current.failures);
        if recent {
            calls += previous.calls;
            failures += previous.failures;
        }
        let too_often = calls >= self.policy.calls_min && failures * 2 >= calls;
        if *in_a_row < self.policy.failures_in_a_row && !too_often {
            return Change::None;
        }
        self.open(now);
        Change::Opened
    }

    /// Whether the store shall be probed now.
    pub(super) fn probe_due(&self, now: Instant) -> bool {
        let (State::Closed { probe_at, .. } | State::Open { probe_at, .. }) = self.state;
        now >= probe_at
    }

    /// A probe ended; `jitter`, from 0 to 1, spreads the instances' next ones.
    pub(super) fn probed(&mut self, went_well: bool, now: Instant, jitter: f64) -> Change {
        let policy = self.policy;
        let next = |after: Duration| now + after.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
        match &mut self.state {
            State::Closed { probe_at, .. } => {
                *probe_at = next(policy.probe_closed);
                self.called(went_well, now)
            }
            State::Open { successes, failures, probe_at } => {
                let doublings = (*failures + self.flaps).min(16);
                let pause = policy.probe_first.saturating_mul(1 << doublings);
                *probe_at = next(pause.min(policy.probe_max));
                if !went_well {
                    (*successes, *failures) = (0, *failures + 1);
                    return Change::None;
                }
                *successes += 1;
                if *successes < policy.successes_in_a_row {
                    return Change::None;
                }
                self.state = closed(&policy, now);
                self.closed_at = now;
                Change::Closed
            }
        }
    }

    fn open(&mut self, now: Instant) {
        let too_soon = now.duration_since(self.closed_at) < self.policy.steady;
        self.flaps = if too_soon { self.flaps + 1 } else { 0 };
        let doublings = self.flaps.min(16);
        let pause = self.policy.probe_first.saturating_mul(1 << doublings);
        let probe_at = now + pause.min(self.policy.probe_max);
        self.state = State::Open { successes: 0, failures: 0, probe_at };
    }
}

fn closed(policy: &Policy, now: Instant) -> State {
    let window = Window { begun: now, calls: 0, failures: 0 };
    let probe_at = now + policy.probe_closed;
    State::Closed { in_a_row: 0, current: window, previous: window, probe_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let start = Instant::now();
        let mut breaker = Breaker::new(Policy::default(), start);
        // Long enough ago that an opening is no flapping.
        let now = start + 120 * SECOND;
        assert_eq!(breaker.called(true, now), Change::None);
        (breaker, now)
    }

    fn open(breaker: &mut Breaker, now: Instant) {
        assert_eq!(breaker.called(false, now), Change::None);
        assert_eq!(breaker.called(false, now), Change::None);
        assert_eq!(breaker.called(false, now), Change::Opened);
        assert!(!breaker.is_closed());
    }

    #[test]
    fn opens_after_three_failures_in_a_row() {
        let (mut breaker, now) = breaker();
        breaker.called(false, now);
        breaker.called(false, now);
        breaker.called(true, now);
        open(&mut breaker, now);
        // What was still under way when it opened says nothing.
        assert_eq!(breaker.called(true, now), Change::None);
        assert_eq!(breaker.called(false, now), Change::None);
        assert!(!breaker.is_closed());
    }

    #[test]
    fn opens_when_half_of_many_calls_fail() {
        let (mut breaker, now) = breaker();
        let mut changes = Vec::new();
        for call in 0..20 {
            changes.push(breaker.called(call % 2 == 0, now));
        }
        // 21 calls with the first one: ten failures are less than half, eleven are not.
        assert!(changes.iter().all(|change| *change == Change::None));
        assert_eq!(breaker.called(false, now), Change::Opened);
    }

    #[test]
    fn forgets_failures_of_two_windows_ago() {
        let (mut breaker, mut now) = breaker();
        for call in 0..18 {
            breaker.called(call % 2 == 0, now);
        }
        now += 25 * SECOND;
        breaker.called(true, now);
        now += 11 * SECOND;
        for _ in 0..2 {
            assert_eq!(breaker.called(false, now), Change::None);
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn closes_after_two_good_probes_in_a_row() {
        let (mut breaker, mut now) = breaker();
        open(&mut breaker, now);
        assert!(!breaker.probe_due(now));
        for (went_well, change) in [
            (true, Change::None),
            (false, Change::None),
            (true, Change::None),
            (true, Change::Closed),
        ] {
            now += 15 * SECOND * 2;
            assert!(breaker.probe_due(now));
            assert_eq!(breaker.probed(went_well, now, 0.5), change);
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn probes_less_and_less_often_up_to_a_bound_and_with_jitter() {
        let (mut breaker, mut now) = breaker();
        open(&mut breaker, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let before = now;
            while !breaker.probe_due(now) {
                now += Duration::from_millis(50);
            }
            pauses.push(now - before);
            breaker.probed(false, now, 1.0);
        }
        assert!(pauses[0] <= SECOND + Duration::from_millis(50), "{pauses:?}");
        assert!(pauses.is_sorted(), "{pauses:?}");
        // The bound is 15 s, the jitter a quarter to both sides.
        assert!(pauses[7] <= 19 * SECOND && pauses[7] >= 18 * SECOND, "{pauses:?}");
    }

    #[test]
    fn a_store_that_comes_and_goes_is_let_back_less_and_less_often() {
        let (mut breaker, mut now) = breaker();
        let mut away = Vec::new();
        for _ in 0..5 {
            open(&mut breaker, now);
            let opened = now;
            while !breaker.is_closed() {
                now += Duration::from_millis(100);
                if breaker.probe_due(now) {
                    breaker.probed(true, now, 0.5);
                }
            }
            away.push(now - opened);
            now += SECOND;
        }
        assert!(away.is_sorted() && away[0] < 3 * SECOND && away[4] > 20 * SECOND, "{away:?}");
    }

    #[test]
    fn a_store_that_nobody_asks_is_found_to_be_away() {
        let (mut breaker, mut now) = breaker();
        let begun = now;
        while breaker.is_closed() {
            now += SECOND;
            if breaker.probe_due(now) {
                breaker.probed(false, now, 0.5);
            }
        }
        assert!(now - begun <= 20 * SECOND);
    }
}
