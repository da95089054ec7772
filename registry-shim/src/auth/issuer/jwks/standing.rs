//! What is known of an issuer's keys, and whether to ask again. Pure: time is an argument.

use jsonwebtoken::Algorithm;

use super::Key;

/// Keys are used this long without a successful fetch: an outage over night must stop nobody.
const STALE_MS_MAX: u64 = 24 * 3600 * 1000;

/// What is known, and since when.
#[derive(Debug)]
pub(super) struct Standing {
    keys: Vec<Key>,
    fetched_ms: Option<u64>,
    tried_ms: Option<u64>,
    pace: Pace,
}

/// How often a source is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Good keys are looked at again after this.
    pub(super) fresh_ms: u64,
    /// Between two tries, whatever tokens name.
    pub(super) retry_ms: u64,
}

impl Standing {
    pub(super) const fn new(pace: Pace) -> Self {
        Self { keys: Vec::new(), fetched_ms: None, tried_ms: None, pace }
    }

    /// Whether to ask the source; `known`: the token's key is at hand.
    pub(super) fn is_due(&self, known: bool, now_ms: u64) -> bool {
        let rested = self.tried_ms.is_none_or(|at| now_ms >= at + self.pace.retry_ms);
        let old = self.fetched_ms.is_none_or(|at| now_ms >= at + self.pace.fresh_ms);
        rested && (!known || old)
    }

    /// Whether the last try succeeded, not too long ago: a key that is not here is nobody's.
    pub(super) fn is_current(&self, now_ms: u64) -> bool {
        let is_fresh = self.fetched_ms.is_some_and(|at| now_ms < at + STALE_MS_MAX);
        is_fresh && self.fetched_ms == self.tried_ms
    }

    /// The source was asked.
    pub(super) fn tried(&mut self, keys: Option<Vec<Key>>, now_ms: u64) {
        self.tried_ms = Some(now_ms);
        if let Some(keys) = keys {
            (self.keys, self.fetched_ms) = (keys, Some(now_ms));
        }
    }

    /// The key of that name; a token that names none fits where there is no choice.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm, now_ms: u64) -> Option<Key> {
        if self.fetched_ms.is_some_and(|at| now_ms >= at + STALE_MS_MAX) {
            return None;
        }
        let found = match kid {
            Some(kid) => self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
            None if self.keys.len() == 1 => self.keys.first(),
            None => None,
        }?;
        found.algorithm.is_none_or(|only| only == algorithm).then(|| found.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jsonwebtoken::DecodingKey;

    use super::*;

    const PACE: Pace = Pace { fresh_ms: 1000, retry_ms: 100 };
    const ALGORITHM: Algorithm = Algorithm::RS256;

    fn keys(kids: &[&str]) -> Vec<Key> {
        let key = |kid: &&str| Key {
            kid: Some((*kid).to_owned()),
            algorithm: Some(ALGORITHM),
            key: Arc::new(DecodingKey::from_secret(b"of no use here")),
        };
        kids.iter().map(key).collect()
    }

    #[test]
    fn an_unknown_key_is_asked_for_at_a_bounded_rate() {
        let mut standing = Standing::new(PACE);
        assert!(standing.is_due(false, 0) && !standing.is_current(0));
        standing.tried(Some(keys(&["a", "b"])), 0);
        assert!(standing.find(Some("a"), ALGORITHM, 1).is_some());
        assert!(standing.find(Some("c"), ALGORITHM, 1).is_none());
        assert!(standing.find(Some("a"), Algorithm::RS512, 1).is_none());
        assert!(!standing.is_due(false, 99) && standing.is_due(false, 100));
        assert!(!standing.is_due(true, 999) && standing.is_due(true, 1000));
        assert!(standing.is_current(999));
    }

    #[test]
    fn an_outage_leaves_the_keys_for_a_day() {
        let mut standing = Standing::new(PACE);
        standing.tried(Some(keys(&["a"])), 0);
        standing.tried(None, 1000);
        assert!(!standing.is_current(1001) && !standing.is_due(true, 1001));
        assert!(standing.find(Some("a"), ALGORITHM, STALE_MS_MAX - 1).is_some());
        assert!(standing.find(Some("a"), ALGORITHM, STALE_MS_MAX).is_none());
    }

    #[test]
    fn a_token_without_a_kid_fits_where_there_is_no_choice() {
        let mut standing = Standing::new(PACE);
        standing.tried(Some(keys(&["a"])), 0);
        assert!(standing.find(None, ALGORITHM, 1).is_some());
        standing.tried(Some(keys(&["a", "b"])), 0);
        assert!(standing.find(None, ALGORITHM, 1).is_none());
    }
}
