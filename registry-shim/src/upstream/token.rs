//! Tokens of upstreams: one per scope, kept until shortly before its end, fetched once however
//! many need it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;
use serde::Deserialize;

use super::error::UpstreamError;
use super::secret::Secret;

/// Scopes that are remembered.
const SCOPES_MAX: u64 = 10_000;
/// Without `expires_in`: distribution's token specification.
const LIFE_S_DEFAULT: u64 = 60;
/// However long it says that it lives.
const LIFE_S_MAX: u64 = 60 * 60;
/// A token is not used when less than this is left of it.
const MARGIN_S: u64 = 10;

/// A token and how long it may be used.
#[derive(Debug)]
pub(super) struct Token {
    /// What is shown.
    pub(super) text: Secret,
    /// From its arrival.
    usable: Duration,
}

/// What a token server answers; OAuth2's name or docker's.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

/// The tokens of one upstream.
#[derive(Clone, Debug)]
pub(super) struct Tokens(Cache<String, Arc<Token>>);

struct UntilUnusable;

impl moka::Expiry<String, Arc<Token>> for UntilUnusable {
    fn expire_after_create(&self, _: &String, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.usable)
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(SCOPES_MAX).expire_after(UntilUnusable).build())
    }

    /// The token that is kept for `scope`.
    pub(super) async fn kept(&self, scope: &str) -> Option<Arc<Token>> {
        self.0.get(scope).await
    }

    /// A token other than `refused`: the kept one, or what `fetch` gives to all who wait for it.
    pub(super) async fn renew(
        &self,
        scope: &str,
        refused: Option<&Arc<Token>>,
        fetch: impl Future<Output = Result<Token, UpstreamError>>,
    ) -> Result<Arc<Token>, UpstreamError> {
        if let (Some(refused), Some(kept)) = (refused, self.kept(scope).await)
            && Arc::ptr_eq(refused, &kept)
        {
            self.0.invalidate(scope).await;
        }
        let fetched = self.0.try_get_with_by_ref(scope, async { fetch.await.map(Arc::new) }).await;
        fetched.map_err(|error| (*error).clone())
    }
}

impl TryFrom<TokenAnswer> for Token {
    type Error = UpstreamError;

    fn try_from(answer: TokenAnswer) -> Result<Self, UpstreamError> {
        let text = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if text.is_empty() {
            return Err(UpstreamError::BadAnswer("token server gives no token".to_owned()));
        }
        Ok(Self { text: Secret::new(text), usable: usable(answer.expires_in) })
    }
}

/// How long a token of that life is used: less than it lives, and at least a moment.
fn usable(expires_in: Option<u64>) -> Duration {
    let life = expires_in.unwrap_or(LIFE_S_DEFAULT).min(LIFE_S_MAX);
    let margin = MARGIN_S.min(life / 2);
    Duration::from_secs((life - margin).max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn token(text: &str) -> Token {
        Token { text: Secret::new(text.to_owned()), usable: Duration::from_secs(60) }
    }

    #[test]
    fn a_token_is_dropped_shortly_before_its_end() {
        for (expires_in, used_s) in [
            (None, 50),
            (Some(300), 290),
            (Some(10), 5),
            (Some(0), 1),
            (Some(u64::MAX), LIFE_S_MAX - 10),
        ] {
            assert_eq!(usable(expires_in), Duration::from_secs(used_s), "{expires_in:?}");
        }
    }

    #[test]
    fn both_names_of_a_token_are_read() {
        for json in [r#"{"token":"t"}"#, r#"{"access_token":"t","expires_in":9,"x":1}"#] {
            let answer: TokenAnswer = serde_json::from_str(json).unwrap();
            assert_eq!(Token::try_from(answer).unwrap().text, Secret::new("t".to_owned()));
        }
        let none: TokenAnswer = serde_json::from_str("{}").unwrap();
        assert!(Token::try_from(none).is_err());
    }

    #[tokio::test]
    async fn many_who_need_a_token_fetch_one() {
        let (tokens, fetches) = (Tokens::new(), AtomicUsize::new(0));
        let fetch = || async {
            tokio::task::yield_now().await;
            fetches.fetch_add(1, Ordering::Relaxed);
            Ok(token("a"))
        };
        let all = (0..100).map(|_| tokens.renew("s", None, fetch()));
        for got in futures::future::join_all(all).await {
            assert_eq!(got.unwrap().text, Secret::new("a".to_owned()));
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_refused_token_is_fetched_anew_once() {
        let tokens = Tokens::new();
        let first = tokens.renew("s", None, async { Ok(token("a")) }).await.unwrap();
        let second = tokens.renew("s", Some(&first), async { Ok(token("b")) }).await.unwrap();
        assert_eq!(second.text, Secret::new("b".to_owned()));
        // Whoever was refused with the first one too takes what is there by now.
        let third = tokens.renew("s", Some(&first), async { Ok(token("c")) }).await.unwrap();
        assert_eq!(third.text, Secret::new("b".to_owned()));
        let failed = tokens.renew("t", None, async { Err(UpstreamError::Denied) }).await;
        assert_eq!(failed.unwrap_err(), UpstreamError::Denied);
        assert!(tokens.kept("t").await.is_none());
    }
}
