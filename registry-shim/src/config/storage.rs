//! `[storage]`: which store, how it is reached, and what is promised about it.
//!
//! Secrets are never here: they come from `storage.credentials_file` or from the environment
//! (`AWS_*`, `GOOGLE_*`, `AZURE_*`), or the machine's own identity gives them.

use std::path::PathBuf;

use longshore_settings::{Kind, Setting};
use serde::Deserialize;
use serde::de::Error as _;

use super::optional_path;
use crate::storage::{StorageUrl, TagPattern};

/// Shortest life of a redirect's URL: a client that was told just now still has to connect.
const REDIRECT_EXPIRY_S_MIN: u32 = 30;
/// Longest: what S3 and Google sign for, 7 days.
const REDIRECT_EXPIRY_S_MAX: u32 = 7 * 24 * 60 * 60;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "storage.url",
        kind: Kind::Text,
        help: "file:///DIRECTORY, memory:, s3://BUCKET[/PREFIX], gs://BUCKET[/PREFIX] or \
               az://CONTAINER[/PREFIX] [default: file:///var/lib/longshore-registry]",
    },
    Setting {
        key: "storage.endpoint",
        kind: Kind::Text,
        help: "base URL of the store's service [default: the cloud's own]",
    },
    Setting { key: "storage.region", kind: Kind::Text, help: "S3 region [default: AWS_REGION]" },
    Setting {
        key: "storage.path_style",
        kind: Kind::Switch,
        help: "S3 bucket in the path and not in the host name [default: true]",
    },
    Setting {
        key: "storage.allow_http",
        kind: Kind::Switch,
        help: "let the endpoint be http:// [default: false]",
    },
    Setting {
        key: "storage.account",
        kind: Kind::Text,
        help: "Azure storage account [default: AZURE_STORAGE_ACCOUNT_NAME]",
    },
    Setting {
        key: "storage.credentials_file",
        kind: Kind::Text,
        help: "S3 and Azure: lines KEY = VALUE; Google: service account JSON; mode 0600 \
               [default: environment or machine identity]",
    },
    Setting {
        key: "storage.redirect",
        kind: Kind::Switch,
        help: "send clients to the store for layers where it can sign URLs [default: true]",
    },
    Setting {
        key: "storage.redirect_expiry_s",
        kind: Kind::Number,
        help: "seconds that a redirect's URL stays good [default: 900]",
    },
    Setting {
        key: "storage.redirect_endpoint",
        kind: Kind::Text,
        help: "base URL that clients reach the store's service at [default: storage.endpoint]",
    },
    Setting {
        key: "storage.compose",
        kind: Kind::Switch,
        help: "copy a blob that came in several requests into one object, in the background, so \
               that it is redirected, too [default: true]",
    },
    Setting {
        key: "storage.immutable_tags",
        kind: Kind::List,
        help: "patterns REPOSITORY:TAG with * and ? whose tags never move [default: none]",
    },
];

/// `[storage]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Which store.
    #[serde(deserialize_with = "storage_url")]
    pub url: StorageUrl,
    /// The service's base URL; `None`: the cloud's own.
    #[serde(deserialize_with = "endpoint")]
    pub endpoint: Option<String>,
    /// S3 only.
    #[serde(deserialize_with = "optional_text")]
    pub region: Option<String>,
    /// S3 only.
    pub path_style: bool,
    /// Without it an `http://` endpoint is refused.
    pub allow_http: bool,
    /// Azure only.
    #[serde(deserialize_with = "optional_text")]
    pub account: Option<String>,
    /// `None`: environment or machine identity.
    #[serde(deserialize_with = "optional_path")]
    pub credentials_file: Option<PathBuf>,
    /// Whether blobs are answered with a redirect where that can be.
    pub redirect: bool,
    /// Seconds.
    #[serde(deserialize_with = "redirect_expiry")]
    pub redirect_expiry_s: u32,
    /// The service's base URL as clients reach it.
    #[serde(deserialize_with = "endpoint")]
    pub redirect_endpoint: Option<String>,
    /// Whether blobs of several segments are brought together where that makes them redirects.
    pub compose: bool,
    /// Tags that never move once they are there.
    #[serde(deserialize_with = "patterns")]
    pub immutable_tags: Vec<TagPattern>,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            url: StorageUrl::Directory("/var/lib/longshore-registry".into()),
            endpoint: None,
            region: None,
            path_style: true,
            allow_http: false,
            account: None,
            credentials_file: None,
            redirect: true,
            redirect_expiry_s: 900,
            redirect_endpoint: None,
            compose: true,
            immutable_tags: Vec::new(),
        }
    }
}

fn storage_url<'de, D: serde::Deserializer<'de>>(from: D) -> Result<StorageUrl, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn optional_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    Ok((!text.is_empty()).then_some(text))
}

/// A path is allowed: emulators have the account in it. Userinfo is not: it would be a secret.
fn endpoint<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let text = text.trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let is_base = text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none()
    });
    if is_base {
        Ok(Some(text.to_owned()))
    } else {
        Err(D::Error::custom("not https://HOST[:PORT]"))
    }
}

fn redirect_expiry<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let expiry = u32::deserialize(from)?;
    if (REDIRECT_EXPIRY_S_MIN..=REDIRECT_EXPIRY_S_MAX).contains(&expiry) {
        return Ok(expiry);
    }
    let bounds = format!("not between {REDIRECT_EXPIRY_S_MIN} and {REDIRECT_EXPIRY_S_MAX}");
    Err(D::Error::custom(bounds))
}

fn patterns<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<TagPattern>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}
