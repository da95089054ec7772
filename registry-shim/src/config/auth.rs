//! `[auth]`: who may do what, as operators write it.
//!
//! Rules and issuers are lists of tables and stand in the file alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

use super::optional_path;

/// Shortest life of a token: what Docker's clients take for granted.
const TOKEN_SECONDS_MIN: u32 = 60;
/// Longest: a token outlives the change of a policy by no more.
const TOKEN_SECONDS_MAX: u32 = 3600;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "auth.users_file",
        kind: Kind::Text,
        help: "users and their password hashes, NAME:$argon2id$… a line [default: none]",
    },
    Setting {
        key: "auth.basic",
        kind: Kind::Switch,
        help: "take passwords on every request, not only for tokens [default: true]",
    },
    Setting {
        key: "auth.service",
        kind: Kind::Text,
        help: "the service and audience of tokens, one for all instances \
               [default: longshore-registry]",
    },
    Setting {
        key: "auth.realm",
        kind: Kind::Text,
        help: "URL where clients get tokens [default: /token at the address that the client used]",
    },
    Setting {
        key: "auth.token_seconds",
        kind: Kind::Number,
        help: "how long a token lasts [default: 300]",
    },
    Setting {
        key: "auth.token_keys",
        kind: Kind::List,
        help: "files with the secrets of tokens; the first signs, all verify \
               [default: one derived from the signing key]",
    },
    Setting {
        key: "auth.audit_file",
        kind: Kind::Text,
        help: "JSON lines of every write, opened again on SIGHUP [default: none, only logged]",
    },
];

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Static users.
    #[serde(deserialize_with = "optional_path")]
    pub users_file: Option<PathBuf>,
    /// Whether passwords are taken on every request.
    pub basic: bool,
    /// `service` of challenges, `aud` and `iss` of tokens.
    #[serde(deserialize_with = "plain_name")]
    pub service: String,
    /// `realm` of challenges.
    #[serde(deserialize_with = "token_url")]
    pub realm: Option<String>,
    /// Life of a token.
    #[serde(deserialize_with = "token_seconds")]
    pub token_seconds: u32,
    /// The first signs, all verify.
    pub token_keys: Vec<PathBuf>,
    /// Audit log beside the tracing target.
    #[serde(deserialize_with = "optional_path")]
    pub audit_file: Option<PathBuf>,
    /// Who may do what; any rule that fits allows.
    pub rule: Vec<Rule>,
    /// Whose tokens are taken beside our own.
    pub issuer: Vec<Issuer>,
}

/// `[[auth.rule]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `anonymous`, `user:NAME`, `node`, `node:POOL`, `group:NAME`, `jwt:ISSUER:SUB`,
    /// `certificate:KIND:NAME`, or `*`; `*` inside a name stands for any characters.
    pub subjects: Vec<String>,
    /// Patterns of names.
    pub repositories: Vec<String>,
    /// What they may do there.
    pub actions: Vec<RuleAction>,
}

/// An action as rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum RuleAction {
    /// Read.
    #[serde(rename = "pull")]
    Pull,
    /// Write.
    #[serde(rename = "push")]
    Push,
    /// Delete.
    #[serde(rename = "delete")]
    Delete,
    /// All of them.
    #[serde(rename = "*")]
    All,
}

/// `[[auth.issuer]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Stands in subjects: `jwt:NAME:SUB`.
    #[serde(deserialize_with = "plain_name")]
    pub name: String,
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud`, one of them.
    pub audience: Vec<String>,
    /// Where its keys are.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Or the file that holds them.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Certificates (PEM) that the URL's server is verified by, instead of the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// `RS256`, `ES256`, `EdDSA`…: no other is taken.
    pub algorithms: Vec<String>,
    /// Groups that tokens belong to, by their claims.
    #[serde(default)]
    pub group: Vec<ClaimGroup>,
}

/// `[[auth.issuer.group]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimGroup {
    /// Stands in subjects: `group:NAME`.
    #[serde(deserialize_with = "plain_name")]
    pub name: String,
    /// Patterns that every named claim has to fit; a name that begins with `/` is a JSON pointer.
    pub claims: BTreeMap<String, String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            users_file: None,
            basic: true,
            service: "longshore-registry".to_owned(),
            realm: None,
            token_seconds: 300,
            token_keys: Vec::new(),
            audit_file: None,
            rule: Vec::new(),
            issuer: Vec::new(),
        }
    }
}

impl Auth {
    /// Whether anybody is asked who they are.
    pub const fn is_on(&self) -> bool {
        self.users_file.is_some() || !self.rule.is_empty() || !self.issuer.is_empty()
    }
}

/// Stands in quotes of a header, and between the colons of a subject.
fn plain_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '/');
    if text.is_empty() || text.len() > 128 || !text.chars().all(fits) {
        return Err(D::Error::custom("not letters, digits, '.', '-', '_', '@' and '/'"));
    }
    Ok(text)
}

fn token_url<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    let uri: http::Uri = text.parse().map_err(D::Error::custom)?;
    let is_url = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
    let is_quotable = text.bytes().all(|c| c.is_ascii_graphic() && c != b'"' && c != b'\\');
    if is_url && is_quotable {
        Ok(Some(text))
    } else {
        Err(D::Error::custom("not http://HOST/…"))
    }
}

fn token_seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let seconds = u32::deserialize(from)?;
    if (TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX).contains(&seconds) {
        return Ok(seconds);
    }
    let bounds = format!("not between {TOKEN_SECONDS_MIN} and {TOKEN_SECONDS_MAX}");
    Err(D::Error::custom(bounds))
}
