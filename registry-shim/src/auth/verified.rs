//! Credentials that were verified not long ago: the hot path.
//!
//! A token, a session and a certificate end in their signature; that end is what is hashed, and the
//! whole is compared, so a hit costs a fraction of a microsecond and no allocation, and a credential
//! is never taken for another. Bounded in bytes; an entry never outlives its credential.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use moka::{Equivalent, Expiry};

use super::Actor;

const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What an entry costs beside the credential: the actor, its grants, the cache's lists.
const ENTRY_BYTES: usize = 512;
/// A credential is verified again after this long, so that a key that was withdrawn ends.
const KEPT_SECONDS_MAX: u64 = 300;
/// The end that is hashed: 192 bits of a signature in base64.
const TAIL_BYTES: usize = 32;

/// The cache.
pub(super) struct Verified(Cache<Kept, Entry>);

/// What a credential is. A certificate is public: it must never pass for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Shown in a header.
    Token,
    /// Proven by the connection.
    Certificate,
}

/// A credential in the cache.
#[derive(PartialEq, Eq)]
struct Kept(Kind, Box<[u8]>);

/// A credential that is looked for.
struct Shown<'a>(Kind, &'a [u8]);

#[derive(Clone)]
struct Entry {
    actor: Actor,
    /// Unix seconds.
    expires_at_s: u64,
    kept: Duration,
    weight: u32,
}

struct UntilExpiry;

impl Verified {
    pub(super) fn new() -> Self {
        let cache = Cache::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|_: &Kept, entry: &Entry| entry.weight)
            .expire_after(UntilExpiry)
            .build();
        Self(cache)
    }

    /// Whose it is, while it lasts.
    pub(super) fn get(&self, kind: Kind, credential: &[u8], now_s: u64) -> Option<Actor> {
        let entry = self.0.get(&Shown(kind, credential))?;
        (entry.expires_at_s > now_s).then_some(entry.actor)
    }

    /// Keeps what was verified at `now_s` and holds until `expires_at_s`.
    pub(super) fn insert(
        &self,
        (kind, credential): (Kind, &[u8]),
        actor: Actor,
        expires_at_s: u64,
        now_s: u64,
    ) {
        let left = expires_at_s.saturating_sub(now_s).min(KEPT_SECONDS_MAX);
        let scope = match &actor {
            Actor::Known(principal) => principal.scope.as_ref().map_or(0, |scope| scope.weight()),
            Actor::Anonymous | Actor::Node(_) => 0,
        };
        let weight = credential.len() + scope + ENTRY_BYTES;
        let entry = Entry {
            actor,
            expires_at_s: now_s + left,
            kept: Duration::from_secs(left),
            weight: u32::try_from(weight).unwrap_or(u32::MAX),
        };
        self.0.insert(Kept(kind, credential.into()), entry);
    }

    /// Nothing was verified.
    pub(super) fn forget(&self) {
        self.0.invalidate_all();
    }
}

fn tail(credential: &[u8]) -> &[u8] {
    &credential[credential.len().saturating_sub(TAIL_BYTES)..]
}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        tail(&self.1).hash(state);
    }
}

impl Hash for Shown<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        tail(self.1).hash(state);
    }
}

impl Equivalent<Kept> for Shown<'_> {
    fn equivalent(&self, kept: &Kept) -> bool {
        self.0 == kept.0 && *self.1 == *kept.1
    }
}

impl Expiry<Kept, Entry> for UntilExpiry {
    fn expire_after_create(&self, _: &Kept, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.kept)
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({})", self.0.entry_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_credential_until_it_expires_and_no_other() {
        let verified = Verified::new();
        let token = [vec![b'a'; 600], vec![b's'; TAIL_BYTES]].concat();
        verified.insert((Kind::Token, &token), Actor::Anonymous, 100, 10);
        assert_eq!(verified.get(Kind::Token, &token, 99), Some(Actor::Anonymous));
        assert_eq!(verified.get(Kind::Token, &token, 100), None);
        // Another content under the same signature hashes alike and is not the same.
        let forged = [vec![b'b'; 600], vec![b's'; TAIL_BYTES]].concat();
        assert_eq!(verified.get(Kind::Token, &forged, 50), None);
        assert_eq!(verified.get(Kind::Token, b"", 50), None);
        assert_eq!(verified.get(Kind::Certificate, &token, 50), None);
        verified.forget();
        assert_eq!(verified.get(Kind::Token, &token, 50), None);
    }

    #[test]
    fn verifies_again_after_a_while() {
        let verified = Verified::new();
        verified.insert((Kind::Token, b"token"), Actor::Anonymous, u64::MAX, 0);
        assert!(verified.get(Kind::Token, b"token", KEPT_SECONDS_MAX - 1).is_some());
        assert_eq!(verified.get(Kind::Token, b"token", KEPT_SECONDS_MAX), None);
    }

    #[test]
    fn is_bounded_in_bytes() {
        let verified = Verified::new();
        for i in 0..6000_u32 {
            let token = [vec![b'a'; 16_000], i.to_be_bytes().to_vec()].concat();
            verified.insert((Kind::Token, &token), Actor::Anonymous, 1000, 0);
        }
        verified.0.run_pending_tasks();
        assert!(verified.0.weighted_size() <= BYTES_MAX);
    }
}
