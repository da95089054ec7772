//! Whether a tag that is kept may be answered while its upstream cannot be asked: pure.

use std::time::Duration;

use super::error::UpstreamError;

/// A stale answer is believed for a moment, so that a dead upstream is not asked by everyone.
pub(super) const STALE_KEPT: Duration = Duration::from_secs(2);

/// What the configuration says of one upstream's tags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    /// A tag is not asked about again for as long.
    pub(super) fresh: Duration,
    /// It is served for as long after the upstream last said it.
    pub(super) stale_max: Duration,
}

impl Freshness {
    /// Whether a tag that the upstream last said at `said_ms` stands in for `error`.
    pub(super) fn serves_stale(self, error: &UpstreamError, said_ms: u64, now_ms: u64) -> bool {
        let age = Duration::from_millis(now_ms.saturating_sub(said_ms));
        error.is_outage() && age <= self.stale_max
    }

    /// Whether the time at which the upstream said a tag is written down again, although the tag
    /// did not move. Not each time: that would be a write per tag and check. So a tag may be
    /// refused when seven eighths of the limit have passed, and never after it.
    pub(super) fn renews(self, said_ms: u64, now_ms: u64) -> bool {
        let age = Duration::from_millis(now_ms.saturating_sub(said_ms));
        age >= self.stale_max / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Freshness =
        Freshness { fresh: Duration::from_secs(1), stale_max: Duration::from_secs(80) };

    #[test]
    fn an_outage_is_bridged_up_to_the_limit() {
        let outages = [
            UpstreamError::TimedOut,
            UpstreamError::Limited { retry_after_s: 1 },
            UpstreamError::Unavailable("it says 500".to_owned()),
        ];
        for outage in outages {
            assert!(ASKED.serves_stale(&outage, 1000, 81_000), "{outage}");
            assert!(!ASKED.serves_stale(&outage, 1000, 81_001), "{outage}");
            // A clock that went back is no reason to refuse.
            assert!(ASKED.serves_stale(&outage, 1000, 0), "{outage}");
        }
    }

    #[test]
    fn an_answer_is_no_outage() {
        for answer in [
            UpstreamError::NotFound,
            UpstreamError::Denied,
            UpstreamError::BadAnswer(String::new()),
        ] {
            assert!(!ASKED.serves_stale(&answer, 1000, 1000), "{answer}");
        }
    }

    #[test]
    fn a_confirmed_tag_is_written_down_now_and_then() {
        assert!(!ASKED.renews(0, 9_999) && ASKED.renews(0, 10_000));
    }
}
