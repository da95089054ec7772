//! How often an upstream is asked: a rate, a bound on what is under way, and the pauses that it
//! asks for.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::error::UpstreamError;
use crate::config::UpstreamRegistry;

/// However long an upstream says that it wants to be left alone.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// The bounds of one upstream.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Option<DefaultDirectRateLimiter>,
    requests: Semaphore,
    fills: Semaphore,
    pause: Mutex<Pause>,
}

/// Until when nothing is asked: pure.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    until: Option<Instant>,
}

/// What a place is for: a long read must not keep a short question waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A manifest, a list, a head.
    Question,
    /// A blob's bytes, either way.
    Bytes,
}

impl Pause {
    fn extend(&mut self, now: Instant, by: Duration) {
        let until = now + by.min(PAUSE_MAX);
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// What is left of it; none when it is over.
    fn left(self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

impl Limit {
    pub(super) fn new(config: &UpstreamRegistry) -> Self {
        let places = |count: u32| Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX));
        let rate = NonZeroU32::new(config.requests_per_s).map(Quota::per_second);
        Self {
            rate: rate.map(RateLimiter::direct),
            requests: places(config.requests_in_flight_max),
            fills: places(config.fills_in_flight_max),
            pause: Mutex::default(),
        }
    }

    /// Waits for a place among what is under way; the caller sets the bound.
    pub(super) async fn place(&self, kind: Use) -> SemaphorePermit<'_> {
        let places = match kind {
            Use::Question => &self.requests,
            Use::Bytes => &self.fills,
        };
        places.acquire().await.expect("the semaphores are never closed")
    }

    /// Waits for the rate; an error at once while the upstream wants to be left alone.
    pub(super) async fn turn(&self) -> Result<(), UpstreamError> {
        let left = self.pause.lock().expect("nobody panics with it").left(Instant::now());
        if let Some(left) = left {
            return Err(UpstreamError::Limited { retry_after_s: left.as_secs() + 1 });
        }
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        Ok(())
    }

    /// The upstream said when to come back.
    pub(super) fn pause(&self, retry_after_s: u64) {
        let mut pause = self.pause.lock().expect("nobody panics with it");
        pause.extend(Instant::now(), Duration::from_secs(retry_after_s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_the_longest_that_was_asked_for_and_has_an_end() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(pause.left(now), None);
        pause.extend(now, seconds(10));
        pause.extend(now, seconds(3));
        assert_eq!(pause.left(now + seconds(4)), Some(seconds(6)));
        assert_eq!(pause.left(now + seconds(10)), None);
        pause.extend(now, seconds(u64::MAX));
        assert_eq!(pause.left(now), Some(PAUSE_MAX));
    }

    #[tokio::test]
    async fn a_paused_upstream_is_not_asked() {
        let config = toml::from_str("prefix = \"a\"\nurl = \"http://a\"\n").unwrap();
        let limit = Limit::new(&config);
        limit.turn().await.unwrap();
        limit.pause(60);
        assert!(matches!(limit.turn().await, Err(UpstreamError::Limited { .. })));
    }
}
