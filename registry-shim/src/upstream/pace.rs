//! Whether a body comes fast enough to be waited for: pure.
//!
//! An upstream that sends a byte now and then is silent for nobody's deadline, and would hold a
//! fill and its readers for ever.

use std::time::Duration;

use tokio::time::Instant;

/// It is judged by what came within so long.
const PERIOD: Duration = Duration::from_secs(30);
/// That must be as much: a kibibyte a second.
const PERIOD_BYTES_MIN: u64 = 30 * 1024;

/// The pace of one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
    total: u64,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, total: 0 }
    }

    /// More came; `false`: not enough.
    pub(super) fn arrived(&mut self, bytes: u64, now: Instant) -> bool {
        self.bytes += bytes;
        self.total += bytes;
        if now.saturating_duration_since(self.since) < PERIOD {
            return true;
        }
        let enough = self.bytes >= PERIOD_BYTES_MIN;
        (self.since, self.bytes) = (now, 0);
        enough
    }

    /// Whether this read was worth its while: the next one may be broken off as often.
    pub(super) const fn has_led_on(self) -> bool {
        self.total >= PERIOD_BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drips_are_too_slow_and_steady_bytes_are_not() {
        let now = Instant::now();
        let second = Duration::from_secs;
        let mut pace = Pace::new(now);
        assert!((1..30).all(|at| pace.arrived(100, now + second(at))));
        assert!(!pace.arrived(100, now + second(30)) && !pace.has_led_on());
        let mut pace = Pace::new(now);
        assert!((1..300).all(|at| pace.arrived(2000, now + second(at))) && pace.has_led_on());
        // What came once does not count for ever.
        let mut pace = Pace::new(now);
        assert!(pace.arrived(1 << 30, now + second(30)));
        assert!(!pace.arrived(1, now + second(60)));
    }
}
