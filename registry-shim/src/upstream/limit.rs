//! How often an upstream is asked: a rate, a bound on what is under way, and the pauses that it
//! asks for.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Mutex;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::error::UpstreamError;
use crate::config::UpstreamRegistry;

/// However long an upstream says that it wants to be left alone.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// The bounds of one upstream.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Option<Rate>,
    requests: Semaphore,
    fills: Semaphore,
    pause: Mutex<Pause>,
}

type Rate = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Moment>>;

/// The runtime's clock: what pauses it pauses the rate.
#[derive(Clone, Copy, Debug)]
struct Ticks;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Instant);

impl Clock for Ticks {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(Instant::now())
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_duration_since(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.checked_sub(duration.into()).unwrap_or(self.0))
    }
}

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, duration: Nanos) -> Self {
        Self(self.0 + Duration::from(duration))
    }
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
            rate: rate.map(|quota| RateLimiter::direct_with_clock(quota, Ticks)),
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
        let Some(rate) = &self.rate else { return Ok(()) };
        while let Err(early) = rate.check() {
            // Those who wait come back one after another, and not all at the first free moment.
            let wait = early.wait_time_from(Ticks.now());
            tokio::time::sleep(wait.mul_f64(rand::random_range(1.0..1.5))).await;
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

    fn limit(requests_per_s: u32) -> Limit {
        let text =
            format!("prefix = \"a\"\nurl = \"http://a\"\nrequests_per_s = {requests_per_s}\n");
        Limit::new(&toml::from_str(&text).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_however_many_ask() {
        let (limit, begun) = (limit(10), Instant::now());
        let all = (0..50).map(|_| limit.turn());
        futures::future::try_join_all(all).await.unwrap();
        // The first ten at once, the others ten a second; who waits may oversleep a little.
        let took = begun.elapsed().as_secs_f64();
        assert!((4.0..5.0).contains(&took), "{took}");
        let free = Limit::new(&toml::from_str("prefix = \"a\"\nurl = \"http://a\"\n").unwrap());
        futures::future::try_join_all((0..1000).map(|_| free.turn())).await.unwrap();
        assert_eq!(begun.elapsed().as_secs_f64(), took);
    }

    #[tokio::test]
    async fn a_paused_upstream_is_not_asked() {
        let limit = limit(0);
        limit.turn().await.unwrap();
        limit.pause(60);
        assert!(matches!(limit.turn().await, Err(UpstreamError::Limited { .. })));
    }
}
