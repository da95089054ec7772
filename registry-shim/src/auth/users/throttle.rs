//! Failed logins, counted by client address and name: who fails too often waits.
//!
//! Pure: time is an argument. Bounded: the oldest entries make room. An IPv6 client counts by its
//! /64, of which it has all addresses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};

/// Failures within a window that are let pass.
const FAILURES_MAX: u32 = 10;
/// From the first failure to a new start.
const WINDOW_MS: u64 = 60_000;
/// Clients and names that are remembered: about 3 MiB.
const ENTRIES_MAX: usize = 32 * 1024;

/// The count.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: HashMap<(IpAddr, u64), Failures>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since_ms: u64,
    count: u32,
}

impl Throttle {
    /// Seconds to wait before another try, if it is too early.
    pub(super) fn check(&self, client: IpAddr, name: &str, now_ms: u64) -> Option<u32> {
        let failures = self.failures.get(&self.key(client, name))?;
        let over_ms = failures.since_ms + WINDOW_MS;
        if failures.count < FAILURES_MAX || over_ms <= now_ms {
            return None;
        }
        u32::try_from((over_ms - now_ms).div_ceil(1000)).ok()
    }

    /// A login failed.
    pub(super) fn failed(&mut self, client: IpAddr, name: &str, now_ms: u64) {
        let key = self.key(client, name);
        if !self.failures.contains_key(&key) && self.failures.len() >= ENTRIES_MAX {
            self.make_room(now_ms);
        }
        let new = Failures { since_ms: now_ms, count: 0 };
        let failures = self.failures.entry(key).or_insert(new);
        if failures.since_ms + WINDOW_MS <= now_ms {
            *failures = new;
        }
        failures.count = failures.count.saturating_add(1);
    }

    /// Drops what is over; if nothing is, the older half.
    fn make_room(&mut self, now_ms: u64) {
        self.failures.retain(|_, failures| failures.since_ms + WINDOW_MS > now_ms);
        if self.failures.len() < ENTRIES_MAX {
            return;
        }
        let mut since: Vec<u64> = self.failures.values().map(|each| each.since_ms).collect();
        let (_, median, _) = since.select_nth_unstable(ENTRIES_MAX / 2);
        let median = *median;
        self.failures.retain(|_, failures| failures.since_ms > median);
    }

    fn key(&self, client: IpAddr, name: &str) -> (IpAddr, u64) {
        let client = match client.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        (client, self.hasher.hash_one(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_fails_too_often_waits_for_the_windows_end() {
        let mut throttle = Throttle::default();
        let client = ip("10.0.0.1");
        for at in 0..u64::from(FAILURES_MAX) {
            assert_eq!(throttle.check(client, "alice", 1000 + at), None);
            throttle.failed(client, "alice", 1000 + at);
        }
        assert_eq!(throttle.check(client, "alice", 1500), Some(60));
        assert_eq!(throttle.check(client, "alice", 1000 + WINDOW_MS - 1), Some(1));
        assert_eq!(throttle.check(client, "bob", 1500), None);
        assert_eq!(throttle.check(ip("10.0.0.2"), "alice", 1500), None);
        let later = 1000 + WINDOW_MS;
        assert_eq!(throttle.check(client, "alice", later), None);
        throttle.failed(client, "alice", later);
        assert_eq!(throttle.check(client, "alice", later), None);
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let mut throttle = Throttle::default();
        for at in 0..FAILURES_MAX {
            throttle.failed(ip(&format!("2001:db8::{at:x}")), "alice", 0);
        }
        assert!(throttle.check(ip("2001:db8::ffff"), "alice", 1).is_some());
        assert!(throttle.check(ip("2001:db8:0:1::1"), "alice", 1).is_none());
        assert!(throttle.check(ip("::ffff:10.0.0.1"), "alice", 1).is_none());
    }

    #[test]
    fn remembers_only_so_many() {
        let mut throttle = Throttle::default();
        for at in 0..(ENTRIES_MAX as u64 * 2) {
            throttle.failed(ip("10.0.0.1"), &format!("name{at}"), at / 100);
        }
        assert!(throttle.failures.len() <= ENTRIES_MAX);
    }
}
