//! An issuer's public keys: fetched from a URL or read from a file, when they are needed.
//!
//! One fetch for all who wait, bounded in bytes and time, without redirects; again when a token
//! names an unknown key, at a bounded rate, and after an hour. While the issuer is out of reach the
//! keys at hand go on, for a day. When to fetch is decided without I/O ([`Standing`]).

mod standing;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::auth::{AuthError, AuthMetrics};
use crate::config::auth::Issuer as IssuerConfig;
use standing::{Pace, Standing};

/// A set of keys has some kilobytes.
const BODY_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The whole answer; whoever waits for it has a client that waits.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const URL_PACE: Pace = Pace { fresh_ms: 3600 * 1000, retry_ms: 10_000 };
const FILE_PACE: Pace = Pace { fresh_ms: 60_000, retry_ms: 1000 };

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    issuer: String,
    source: Source,
    standing: Mutex<Standing>,
    /// Held by the one who fetches.
    fetching: tokio::sync::Mutex<()>,
    metrics: AuthMetrics,
}

enum Source {
    Url(reqwest::Client, reqwest::Url),
    File(PathBuf),
}

/// One public key.
#[derive(Clone)]
pub(super) struct Key {
    kid: Option<String>,
    /// The only one that it is for.
    algorithm: Option<Algorithm>,
    pub(super) key: Arc<DecodingKey>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(in crate::auth) enum JwksError {
    /// Neither, or both.
    #[error("one of jwks_url and jwks_file is needed")]
    Source,
    /// A URL that somebody on the way could answer.
    #[error("jwks_url is not https://…, nor http:// on this machine")]
    Url,
    /// The authorities' file.
    #[error("ca_file: {0}")]
    Authorities(String),
    /// The client cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(reqwest::Error),
    /// The keys' file.
    #[error("jwks_file: {0}")]
    File(std::io::Error),
    /// The issuer does not answer, or not well.
    #[error("fetch failed: {0}")]
    Fetch(String),
    /// What came is no set of keys.
    #[error("no set of at most {KEYS_MAX} public keys")]
    Content,
}

impl Jwks {
    pub(super) fn new(config: &IssuerConfig, metrics: AuthMetrics) -> Result<Self, JwksError> {
        let (source, pace) = match (&config.jwks_url, &config.jwks_file) {
            (Some(url), None) => (Source::url(url, config)?, URL_PACE),
            // A file that is wrong from the start is wrong configuration.
            (None, Some(file)) => {
                parse(&read(file)?)?;
                (Source::File(file.clone()), FILE_PACE)
            }
            _ => return Err(JwksError::Source),
        };
        Ok(Self {
            issuer: config.name.clone(),
            source,
            standing: Mutex::new(Standing::new(pace)),
            fetching: tokio::sync::Mutex::default(),
            metrics,
        })
    }

    /// The key that a token names.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        now_ms: u64,
    ) -> Result<Key, AuthError> {
        let known = self.standing().find(kid, algorithm, now_ms);
        if self.standing().is_due(known.is_some(), now_ms) {
            let fetching = match &known {
                None => Some(self.fetching.lock().await),
                // One renews; the others go on with what there is.
                Some(_) => self.fetching.try_lock().ok(),
            };
            let known = self.standing().find(kid, algorithm, now_ms).is_some();
            if fetching.is_some() && self.standing().is_due(known, now_ms) {
                self.fetch(now_ms).await;
            }
        }
        let standing = self.standing();
        standing.find(kid, algorithm, now_ms).ok_or(match standing.is_current(now_ms) {
            true => AuthError::Unauthorized,
            false => AuthError::Unavailable,
        })
    }

    /// How many keys there are to be had now.
    pub(super) async fn try_out(&self) -> Result<usize, JwksError> {
        self.read().await.map(|keys| keys.len())
    }

    async fn read(&self) -> Result<Vec<Key>, JwksError> {
        let content = match &self.source {
            Source::Url(client, url) => get(client, url.clone()).await,
            Source::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || read(&file)).await;
                read.unwrap_or_else(|error| Err(JwksError::Fetch(error.to_string())))
            }
        };
        parse(&content?)
    }

    async fn fetch(&self, now_ms: u64) {
        let parsed = self.read().await;
        match &parsed {
            Ok(keys) => {
                self.metrics.issuer_keys_read.inc();
                tracing::debug!(issuer = self.issuer, keys = keys.len(), "issuer's keys are read");
            }
            Err(error) => {
                self.metrics.issuer_keys_failed.inc();
                tracing::warn!(issuer = self.issuer, %error, "issuer's keys cannot be had");
            }
        }
        self.standing().tried(parsed.ok(), now_ms);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn url(text: &str, config: &IssuerConfig) -> Result<Self, JwksError> {
        let url: reqwest::Url = text.parse().map_err(|_| JwksError::Url)?;
        let is_here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(JwksError::Url);
        }
        // Refused where the program itself was first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &config.ca_file {
            let wrong = |error: &dyn std::fmt::Display| JwksError::Authorities(error.to_string());
            let pem = std::fs::read(file).map_err(|error| wrong(&error))?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem);
            builder = builder.tls_certs_only(bundle.map_err(|error| wrong(&error))?);
        }
        builder.build().map(|client| Self::Url(client, url)).map_err(JwksError::Client)
    }
}

/// The answer's body, if it is one and within bounds.
async fn get(client: &reqwest::Client, url: reqwest::Url) -> Result<Vec<u8>, JwksError> {
    // A URL may hold a secret of its own.
    let failed = |error: reqwest::Error| JwksError::Fetch(error.without_url().to_string());
    let mut response = client.get(url).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(JwksError::Fetch(format!("status {}", response.status().as_u16())));
    }
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(failed)? {
        if body.len() + bytes.len() > BODY_BYTES_MAX {
            return Err(JwksError::Fetch(format!("more than {BODY_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

fn read(file: &Path) -> Result<Vec<u8>, JwksError> {
    let mut content = Vec::new();
    let file = std::fs::File::open(file).map_err(JwksError::File)?;
    file.take(BODY_BYTES_MAX as u64).read_to_end(&mut content).map_err(JwksError::File)?;
    Ok(content)
}

/// The public keys for signatures; others in the set are passed over.
fn parse(content: &[u8]) -> Result<Vec<Key>, JwksError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(content).map_err(|_| JwksError::Content)?;
    if set.keys.len() > KEYS_MAX {
        return Err(JwksError::Content);
    }
    let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).collect();
    if keys.is_empty() { Err(JwksError::Content) } else { Ok(keys) }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_secret = matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
        let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if is_secret || !signs {
            return None;
        }
        let algorithm = match &jwk.common.key_algorithm {
            None => None,
            Some(named) => Some(named.to_string().parse().ok()?),
        };
        let key = Arc::new(DecodingKey::from_jwk(&jwk).ok()?);
        Some(Self { kid: jwk.common.key_id, algorithm, key })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?})", self.kid)
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(_, url) => write!(f, "Url({:?})", url.host_str()),
            Self::File(file) => write!(f, "File({file:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 8037, appendix A.2.
    const ED25519: &str =
        r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    #[test]
    fn takes_public_keys_for_signatures_and_passes_over_the_rest() {
        let set = format!(
            r#"{{"keys":[{{{ED25519},"kid":"good","alg":"EdDSA","use":"sig"}},
               {{{ED25519},"kid":"encrypts","use":"enc"}},
               {{"kty":"oct","k":"c2VjcmV0","kid":"secret"}},
               {{"kty":"new","kid":"x"}},{{}},7]}}"#
        );
        let keys = parse(set.as_bytes()).unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].kid.as_deref(), Some("good"));
        assert_eq!(keys[0].algorithm, Some(Algorithm::EdDSA));
        let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; KEYS_MAX + 1].join(","));
        let secret = r#"{"keys":[{"kty":"oct","k":"YQ"}]}"#;
        for bad in ["", "[]", "{}", r#"{"keys":[]}"#, secret, &many] {
            assert!(matches!(parse(bad.as_bytes()), Err(JwksError::Content)), "{bad:.40}");
        }
    }

    proptest! {
        #[test]
        fn survives_any_content(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&content);
        }
    }
}
