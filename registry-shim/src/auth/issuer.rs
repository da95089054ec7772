//! Identity providers: whose tokens (JWT, OIDC) are taken beside our own.
//!
//! An issuer is known by its `iss`; its audience and its algorithms are pinned, symmetric ones are
//! never among them. What a token says of its bearer becomes subjects of rules: `jwt:NAME:SUB`, and
//! `group:NAME` for every group whose claims fit. Source: RFC 7519, RFC 8725 (best practices).

mod claims;
mod jwks;

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::{AuthError, AuthMetrics};
use crate::config::auth::Issuer as IssuerConfig;
use claims::{Group, InvalidGroup};
use jwks::{Jwks, JwksError};

/// Clocks of issuers may be ahead of ours by this much; nothing outlives its `exp`.
const AHEAD_SECONDS_MAX: u64 = 60;
/// Longest `sub` that is taken: it stands in logs and in history.
const SUBJECT_CHARS_MAX: usize = 256;

/// All of them.
#[derive(Debug)]
pub(super) struct Issuers(Vec<Issuer>);

#[derive(Debug)]
struct Issuer {
    name: String,
    issuer: String,
    wanted: Validation,
    groups: Vec<Group>,
    keys: Jwks,
}

/// Whose token it is, and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) subjects: Vec<String>,
    pub(super) expires_at_s: u64,
}

/// Why an issuer cannot be used: wrong configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerError {
    /// Two would be asked for one token.
    #[error("{0}: name or issuer stands twice")]
    Twice(String),
    /// Anybody's tokens would do.
    #[error("{0}: {1} is empty")]
    Empty(String, &'static str),
    /// No such algorithm, or one whose secret the issuer would share.
    #[error("{0}: {1:?} is no algorithm of public keys")]
    Algorithm(String, String),
    /// Its keys.
    #[error("{0}: {1}")]
    Keys(String, JwksError),
    /// Its groups.
    #[error("{0}: {1}")]
    Group(String, InvalidGroup),
}

#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

/// How many public keys the issuer gives now; one line where it gives none.
pub(super) async fn try_out(config: &IssuerConfig) -> Result<usize, String> {
    let issuer = Issuer::new(config, &AuthMetrics::default()).map_err(|error| error.to_string())?;
    issuer.keys.try_out().await.map_err(|error| error.to_string())
}

impl Issuers {
    pub(super) fn new(
        configs: &[IssuerConfig],
        metrics: &AuthMetrics,
    ) -> Result<Self, IssuerError> {
        let mut issuers: Vec<Issuer> = Vec::new();
        for config in configs {
            let same = |other: &Issuer| other.name == config.name || other.issuer == config.issuer;
            if issuers.iter().any(same) {
                return Err(IssuerError::Twice(config.name.clone()));
            }
            issuers.push(Issuer::new(config, metrics)?);
        }
        Ok(Self(issuers))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token it is.
    pub(super) async fn verify(&self, token: &str, now_ms: u64) -> Result<Named, AuthError> {
        let refused = |_| AuthError::Unauthorized;
        let header = jsonwebtoken::decode_header(token).map_err(refused)?;
        let said: Unverified =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(refused)?;
        let issuer = self.0.iter().find(|issuer| issuer.issuer == said.iss);
        issuer.ok_or(AuthError::Unauthorized)?.verify(token, &header, now_ms).await
    }
}

impl Issuer {
    fn new(config: &IssuerConfig, metrics: &AuthMetrics) -> Result<Self, IssuerError> {
        let name = config.name.clone();
        for (key, empty) in [
            ("issuer", config.issuer.is_empty()),
            ("audience", config.audience.is_empty()),
            ("algorithms", config.algorithms.is_empty()),
        ] {
            if empty {
                return Err(IssuerError::Empty(name, key));
            }
        }
        let algorithm = |text: &String| match text.parse() {
            Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) | Err(_) => {
                Err(IssuerError::Algorithm(name.clone(), text.clone()))
            }
            Ok(algorithm) => Ok(algorithm),
        };
        let algorithms: Vec<Algorithm> =
            config.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?;
        let mut wanted = Validation::new(algorithms[0]);
        wanted.algorithms = algorithms;
        wanted.set_issuer(&[&config.issuer]);
        wanted.set_audience(&config.audience);
        wanted.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // Compared below, with the caller's time.
        (wanted.validate_exp, wanted.validate_nbf) = (false, false);
        let groups = config.group.iter().map(Group::new).collect::<Result<_, _>>();
        let keys = Jwks::new(config, metrics.clone());
        Ok(Self {
            issuer: config.issuer.clone(),
            wanted,
            groups: groups.map_err(|error| IssuerError::Group(name.clone(), error))?,
            keys: keys.map_err(|error| IssuerError::Keys(name.clone(), error))?,
            name,
        })
    }

    async fn verify(&self, token: &str, header: &Header, now_ms: u64) -> Result<Named, AuthError> {
        // An extension that must be understood is not.
        if !self.wanted.algorithms.contains(&header.alg) || header.crit.is_some() {
            return Err(AuthError::Unauthorized);
        }
        let key = self.keys.find(header.kid.as_deref(), header.alg, now_ms).await?;
        let said = jsonwebtoken::decode::<Value>(token, &key.key, &self.wanted);
        let said = said.map_err(|_| AuthError::Unauthorized)?.claims;
        self.named(&said, now_ms / 1000).ok_or(AuthError::Unauthorized)
    }

    fn named(&self, said: &Value, now_s: u64) -> Option<Named> {
        // RFC 7519: a number, also one with a fraction.
        let seconds = |value: &Value| value.as_u64().or_else(|| value.as_f64().map(|s| s as u64));
        let expires_at_s = said.get("exp").and_then(seconds)?;
        let begins_at_s = said.get("nbf").map_or(Some(0), seconds)?;
        if expires_at_s <= now_s || begins_at_s > now_s + AHEAD_SECONDS_MAX {
            return None;
        }
        let subject = said.get("sub")?.as_str()?;
        let is_plain = subject.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if subject.is_empty() || subject.len() > SUBJECT_CHARS_MAX || !is_plain {
            return None;
        }
        let groups = self.groups.iter().filter(|group| group.holds(said));
        let subjects = std::iter::once(format!("jwt:{}:{subject}", self.name))
            .chain(groups.map(|group| format!("group:{}", group.name())))
            .collect();
        Some(Named { subjects, expires_at_s })
    }
}

/// Whether it is built like a JWT: three parts, the first one JSON in base64.
pub(super) fn is_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|&c| c == b'.').count() == 2
}

#[cfg(test)]
mod tests;
