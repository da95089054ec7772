//! A registry as containerd names it: what stands before the first `/` of an image.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;
use serde::Deserialize;

/// A host name of 253 characters, brackets and a port.
const CHARS_MAX: usize = 262;
/// containerd's name for "every registry without a directory of its own".
const DEFAULT: &str = "_default";

/// `host[:port]`, or `_default`. Safe as the name of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(String);

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not host[:port] or _default")]
pub struct InvalidNamespace;

impl Namespace {
    /// The one whose images the origin itself holds.
    pub fn of_origin(url: &Url) -> Result<Self, InvalidNamespace> {
        let host = url.host_str().ok_or(InvalidNamespace)?;
        match url.port() {
            Some(port) => format!("{host}:{port}").parse(),
            None => host.parse(),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every registry without a directory of its own.
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }

    /// Directories below containerd's `config_path` that it looks for, the first that exists wins
    /// (containerd, `core/remotes/docker/config/hosts.go`): `host_port_`, then `host:port`.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        let spelled = PathBuf::from(&self.0);
        match self.0.rsplit_once(':') {
            Some((host, port)) => vec![format!("{host}_{port}_").into(), spelled],
            None => vec![spelled],
        }
    }
}

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(text: &str) -> Result<Self, InvalidNamespace> {
        if text == DEFAULT {
            return Ok(Self(text.to_owned()));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let well_formed = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            // A name, which never begins with a dot and so never leaves the directory.
            None => {
                host.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && host.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.' || c == b'-')
            }
        };
        let numbered = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !well_formed || !numbered || text.len() > CHARS_MAX {
            return Err(InvalidNamespace);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(text: String) -> Result<Self, InvalidNamespace> {
        text.parse()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_hosts_as_images_name_them() {
        for text in ["docker.io", "10.77.0.1:5000", "[::1]:5000", "localhost", "_default"] {
            assert_eq!(text.parse::<Namespace>().map(|name| name.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn refuses_what_would_leave_the_directory_or_is_no_host() {
        let long = "a".repeat(263);
        for text in ["", ".", "..", "../x", "a/b", "a_b", "host:", "host:0", "host:x", "[x]", &long]
        {
            assert_eq!(text.parse::<Namespace>(), Err(InvalidNamespace), "{text}");
        }
    }

    #[test]
    fn the_spelling_that_containerd_looks_for_first_comes_first() {
        let directories = |text: &str| text.parse::<Namespace>().unwrap().directories();
        let both = [PathBuf::from("10.77.0.1_5000_"), PathBuf::from("10.77.0.1:5000")];
        assert_eq!(directories("10.77.0.1:5000"), both);
        assert_eq!(directories("docker.io"), [PathBuf::from("docker.io")]);
    }

    #[test]
    fn the_origins_own_name_has_the_port_that_images_have() {
        let of = |url: &str| Namespace::of_origin(&url.parse().unwrap()).unwrap().to_string();
        assert_eq!(of("http://10.77.0.1:5000"), "10.77.0.1:5000");
        assert_eq!(of("http://registry.example"), "registry.example");
        assert_eq!(of("http://[::1]:5000"), "[::1]:5000");
    }
}
