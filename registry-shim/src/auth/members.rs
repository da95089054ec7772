//! Who may make a node a member of a pool: whoever knows a join token, and whom an issuer vouches
//! for.
//!
//! Must never say which of the two failed: a node learns only that it may not.

use super::issuer::is_jwt;
use super::pattern::Pattern;
use super::token_file::{JoinTokens, TokenFileError};
use super::{Auth, AuthError};
use crate::StartError;
use crate::config::{Join, JoinIdentity};

/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 16 * 1024;

/// As configured.
#[derive(Debug)]
pub(super) struct Members {
    tokens: JoinTokens,
    identities: Vec<Identities>,
}

/// Identities, and the pools that they may join.
#[derive(Debug)]
struct Identities {
    subjects: Vec<Pattern>,
    pools: Vec<Pattern>,
}

impl Members {
    pub(super) fn load(config: &Join, has_issuers: bool) -> Result<Self, StartError> {
        let tokens = JoinTokens::load(config.token_file.as_deref()).map_err(bad_tokens)?;
        let bad = |message: String| StartError::Config { key: "join.identity", message };
        if !config.identity.is_empty() && !has_issuers {
            return Err(bad("no auth.issuer is there to vouch for a node".to_owned()));
        }
        let numbered = config.identity.iter().enumerate();
        let identities = numbered
            .map(|(at, each)| compile(each).map_err(|why| bad(format!("entry {}: {why}", at + 1))));
        Ok(Self { tokens, identities: identities.collect::<Result<_, _>>()? })
    }

    /// Whether nobody is asked: neither tokens nor identities are configured.
    const fn is_open(&self) -> bool {
        matches!(self.tokens, JoinTokens::Anyone) && self.identities.is_empty()
    }

    fn vouches(&self, subjects: &[String], pool: &str) -> bool {
        self.identities.iter().any(|each| {
            let fits = |subject: &String| each.subjects.iter().any(|known| known.matches(subject));
            subjects.iter().any(fits) && each.pools.iter().any(|known| known.matches(pool))
        })
    }
}

impl Auth {
    /// Whether a node may join `pool` by `token` (empty: none was sent), a join token or a token of
    /// an issuer. Where clients are asked who they are, a node is too.
    ///
    /// # Errors
    /// `Unauthorized` for a token that holds nowhere, `Denied` for an identity that may not join
    /// that pool, `Unavailable` while an issuer's keys cannot be had.
    pub async fn admit_node(&self, token: &str, pool: &str, now_ms: u64) -> Result<(), AuthError> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(AuthError::Unauthorized);
        }
        let members = &self.members;
        if members.tokens.admit(token, pool) || (!self.is_on() && members.is_open()) {
            return Ok(());
        }
        if members.identities.is_empty() || !is_jwt(token) {
            return Err(AuthError::Unauthorized);
        }
        let named = self.issuers.verify(token, now_ms).await?;
        if members.vouches(&named.subjects, pool) { Ok(()) } else { Err(AuthError::Denied) }
    }
}

fn compile(config: &JoinIdentity) -> Result<Identities, String> {
    let is_known = |text: &&String| {
        let kinds = ["jwt:", "group:"];
        kinds.iter().any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.is_empty()))
    };
    if let Some(subject) = config.subjects.iter().find(|text| !is_known(text)) {
        return Err(format!("{subject:?} is neither jwt:ISSUER:SUB nor group:NAME"));
    }
    if config.subjects.is_empty() || config.pools.is_empty() {
        return Err("subjects or pools is empty".to_owned());
    }
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
    Ok(Identities { subjects: patterns(&config.subjects), pools: patterns(&config.pools) })
}

fn bad_tokens(error: TokenFileError) -> StartError {
    StartError::Config { key: "join.token_file", message: error.to_string() }
}
