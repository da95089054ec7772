//! How often one client may ask.
//!
//! Keys are kept for as long as they matter, and no more than [`KEYS_MAX`]: beyond, newcomers share
//! one. Only where it is configured; 429 is no answer for containerd, so nodes are exempt.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use prometheus_client::metrics::counter::Counter;

use super::client::Clients;
use crate::auth::Actor;
use crate::config::limits::Limits;

/// Clients that are told apart.
const KEYS_MAX: usize = 65_536;
/// Questions between two looks at the keys' number.
const LOOK_EVERY: u64 = 1024;
/// A burst that is not configured: so many seconds at the rate.
const BURST_SECONDS: u32 = 10;
/// Whom newcomers are while the table is full. A hash that equals it shares it, which harms nobody.
const OVERFLOW: u64 = 0;

/// Counts requests per client.
#[derive(Debug)]
pub(crate) struct Throttle {
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
    clock: DefaultClock,
    clients: Clients,
    asked: AtomicU64,
    full: AtomicBool,
    refused: Counter,
}

/// Too many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests, try again in {retry_after_s} s")]
pub(crate) struct Throttled {
    /// When one more will be let through.
    pub(crate) retry_after_s: u64,
}

impl Throttle {
    /// `None` where no limit is configured. `refused` counts.
    pub(crate) fn new(limits: &Limits, refused: Counter) -> Option<Self> {
        let rate = NonZeroU32::new(limits.client_requests_per_s)?;
        let usual = NonZeroU32::new(rate.get().saturating_mul(BURST_SECONDS)).unwrap_or(rate);
        let burst = NonZeroU32::new(limits.client_burst).unwrap_or(usual);
        Some(Self {
            limiter: RateLimiter::dashmap(Quota::per_second(rate).allow_burst(burst)),
            clock: DefaultClock::default(),
            clients: Clients::new(limits.throttle_nodes),
            asked: AtomicU64::new(0),
            full: AtomicBool::new(false),
            refused,
        })
    }

    /// One request more; whoever is `None` showed something that nobody knows.
    pub(crate) fn ask(&self, actor: Option<&Actor>, address: IpAddr) -> Result<(), Throttled> {
        let Some(key) = self.clients.number(actor, address) else { return Ok(()) };
        if self.asked.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == LOOK_EVERY - 1 {
            self.tidy();
        }
        let key = if self.full.load(Ordering::Relaxed) { OVERFLOW } else { key };
        self.limiter.check_key(&key).map_err(|not_until| {
            self.refused.inc();
            let wait = not_until.wait_time_from(self.clock.now());
            Throttled { retry_after_s: wait.as_secs() + 1 }
        })
    }
}

impl Throttle {
    /// Forgets keys that matter no more, once there are many.
    fn tidy(&self) {
        if self.limiter.len() >= KEYS_MAX / 2 {
            self.limiter.retain_recent();
        }
        self.full.store(self.limiter.len() >= KEYS_MAX, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(burst: u32) -> Throttle {
        let limits = Limits { client_requests_per_s: 1, client_burst: burst, ..Limits::default() };
        Throttle::new(&limits, Counter::default()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn clients_are_told_apart_by_address_or_prefix() {
        let throttle = throttle(1);
        let ask = |address| throttle.ask(Some(&Actor::Anonymous), ip(address));
        assert_eq!(ask("192.0.2.1"), Ok(()));
        assert_eq!(ask("::ffff:192.0.2.1"), Err(Throttled { retry_after_s: 1 }), "the same");
        assert_eq!(ask("192.0.2.2"), Ok(()));
        assert_eq!(ask("2001:db8::1"), Ok(()));
        assert!(ask("2001:db8::2").is_err(), "of one subscriber");
        assert_eq!(ask("2001:db8:0:1::1"), Ok(()));
        assert_eq!(throttle.refused.get(), 2);
    }

    #[test]
    fn many_clients_do_not_make_many_keys() {
        let throttle = throttle(2);
        for client in 0..KEYS_MAX as u32 + 10_000 {
            let _shared = throttle.ask(None, IpAddr::V4(client.into()));
        }
        assert!(throttle.limiter.len() <= KEYS_MAX + LOOK_EVERY as usize);
    }

    #[test]
    fn no_rate_no_throttle() {
        assert!(Throttle::new(&Limits::default(), Counter::default()).is_none());
    }
}
