//! Names: repositories, tags, references and images.
//!
//! Source: OCI distribution-spec 1.1, "Pulling manifests" (the two regular expressions), with its
//! advice that a host and name together stay under 255 characters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, InvalidDigest};

/// Longest repository name that is accepted.
const REPOSITORY_CHARS_MAX: usize = 255;
/// Longest tag that the specification allows.
const TAG_CHARS_MAX: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not the specification's `<name>`.
    #[error("repository name is not lower-case path components of at most 255 characters")]
    Repository,
    /// Not the specification's `<reference>` as a tag.
    #[error("tag is not [a-zA-Z0-9_][a-zA-Z0-9._-]{{0,127}}")]
    Tag,
    /// It has a colon, so it had to be a digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// An image without a registry host in front.
    #[error("image does not begin with a registry host")]
    NoHost,
}

/// `<name>`: path components of lower-case letters and digits, separated by `.`, `_`, `__` or `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

/// A tag: at most 128 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// An image as a user names it: `host[:port]/repository[:tag][@digest]`; a digest outranks a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// `host[:port]`.
    pub registry: String,
    /// The name at that registry.
    pub repository: RepositoryName,
    /// `latest` where neither tag nor digest is given.
    pub reference: Reference,
}

impl RepositoryName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first path component.
    pub fn project(&self) -> &str {
        self.0.split('/').next().expect("split yields at least one part")
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > REPOSITORY_CHARS_MAX || !text.split('/').all(is_path_component) {
            return Err(InvalidName::Repository);
        }
        Ok(Self(text.to_owned()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, without a regular expression: this stands on the hot path.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&c| alphanumeric(c)).filter(|separator| !separator.is_empty()).all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&c| c == b'-')
    })
}

impl Tag {
    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        let bytes = text.as_bytes();
        let well_formed = bytes.first().is_some_and(|&c| word(c))
            && bytes.len() <= TAG_CHARS_MAX
            && bytes.iter().all(|&c| word(c) || c == b'.' || c == b'-');
        if !well_formed {
            return Err(InvalidName::Tag);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Reference {
    type Err = InvalidName;

    /// A tag has no colon, so a text with one is a digest or an error, never a tag.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        Ok(Self::Tag(text.parse()?))
    }
}

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (registry, rest) = text.split_once('/').ok_or(InvalidName::NoHost)?;
        let host_like = registry.contains(['.', ':']) || registry == "localhost";
        if !host_like {
            return Err(InvalidName::NoHost);
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, tag.parse()?),
            None => (rest, Tag("latest".to_owned())),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.parse()?,
            reference: digest.map_or(Reference::Tag(tag), Reference::Digest),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference)
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_name!(RepositoryName);
text_name!(Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_specifications_repository_names() {
        for name in ["a", "library/debian", "a.b/c_d/e__f/g---h", "0/1"] {
            assert!(name.parse::<RepositoryName>().is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_names_that_could_touch_other_keys() {
        let long = "a".repeat(256);
        for name in
            ["", "/", "a//b", "A", "a/../b", "a/.b", "a!", "a___b", "a..b", "-a", "a/", &long]
        {
            assert_eq!(name.parse::<RepositoryName>(), Err(InvalidName::Repository), "{name}");
        }
    }

    #[test]
    fn a_malformed_digest_is_never_taken_as_a_tag() {
        assert_eq!("v1.0-rc_1".parse::<Reference>().map(|r| r.to_string()), Ok("v1.0-rc_1".into()));
        assert!(matches!("sha256:00".parse::<Reference>(), Err(InvalidName::Digest(_))));
        assert_eq!(".hidden".parse::<Reference>(), Err(InvalidName::Tag));
        assert_eq!("a".repeat(129).parse::<Tag>(), Err(InvalidName::Tag));
    }

    #[test]
    fn reads_images_as_users_write_them() {
        let image: ImageName = "10.0.0.1:5000/apps/web:v2".parse().unwrap();
        assert_eq!(
            (image.registry.as_str(), image.repository.as_str()),
            ("10.0.0.1:5000", "apps/web")
        );
        assert_eq!(image.to_string(), "10.0.0.1:5000/apps/web:v2");
        assert_eq!(
            "r.example/web".parse::<ImageName>().unwrap().to_string(),
            "r.example/web:latest"
        );
        assert_eq!("apps/web".parse::<ImageName>(), Err(InvalidName::NoHost));
    }
}
