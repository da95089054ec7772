//! Challenges: how a client that was refused learns what to ask for, and where.
//!
//! Source: RFC 6750 section 3, Docker Registry v2 "Token Authentication Specification". Only Bearer,
//! also where passwords are taken on every request: many clients read all the headers of a name as
//! one text, and would look for tokens at the realm of a second scheme.

use http::HeaderValue;
use longshore_proto::RepositoryName;

use super::{Action, Auth, AuthError};

/// What the refused request wanted.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// To be known.
    Base,
    /// To list the repositories.
    Catalog,
    /// Something of a repository.
    Repository(Action, &'a RepositoryName),
    /// To make a blob of one repository another's.
    Mount {
        /// Where it lies.
        from: &'a RepositoryName,
        /// Where it shall be.
        to: &'a RepositoryName,
    },
}

/// Where the client thinks that it is.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// `https` or not.
    pub tls: bool,
    /// `Host` or `:authority`.
    pub authority: Option<&'a str>,
    /// The configured base URL of this registry.
    pub advertise: Option<&'a str>,
}

impl Auth {
    /// The value of `WWW-Authenticate` for a refusal; none where credentials would not help.
    pub fn challenge(
        &self,
        error: AuthError,
        wanted: Wanted<'_>,
        at: Challenge<'_>,
    ) -> Option<HeaderValue> {
        let code = match error {
            AuthError::Anonymous => None,
            AuthError::Unauthorized => Some("invalid_token"),
            AuthError::Scope => Some("insufficient_scope"),
            AuthError::Denied | AuthError::Throttled { .. } | AuthError::Unavailable => {
                return None;
            }
        };
        if !self.on {
            return Some(HeaderValue::from_static("Bearer"));
        }
        let realm = self.realm.clone().unwrap_or_else(|| realm(at));
        let mut bearer = format!("Bearer realm=\"{realm}\",service=\"{}\"", self.service);
        if let Some(scope) = scope(wanted) {
            bearer.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(code) = code {
            bearer.push_str(&format!(",error=\"{code}\""));
        }
        HeaderValue::try_from(bearer).ok()
    }

    /// What `/token` answers to credentials that do not hold.
    pub fn token_challenge(&self) -> HeaderValue {
        let value = format!("Basic realm=\"{}\",charset=\"UTF-8\"", self.service);
        HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("Basic"))
    }
}

fn realm(at: Challenge<'_>) -> String {
    if let Some(advertise) = at.advertise {
        return format!("{advertise}/token");
    }
    let scheme = if at.tls { "https" } else { "http" };
    // What a client sent stands in quotes only if it is a host and a port.
    let is_plain = |text: &&str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
        !text.is_empty() && text.len() <= 255 && text.bytes().all(fits)
    };
    let authority = at.authority.filter(is_plain).unwrap_or("localhost");
    format!("{scheme}://{authority}/token")
}

fn scope(wanted: Wanted<'_>) -> Option<String> {
    match wanted {
        Wanted::Base => None,
        Wanted::Mount { from, to } => {
            Some(format!("repository:{to}:pull,push repository:{from}:pull"))
        }
        Wanted::Catalog => Some("registry:catalog:*".to_owned()),
        Wanted::Repository(action, repository) => {
            // Who pushes looks first at what is there.
            let actions = match action {
                Action::Pull => "pull",
                Action::Push => "pull,push",
                Action::Delete => "delete",
            };
            Some(format!("repository:{repository}:{actions}"))
        }
    }
}
