//! A registry whose pulls go through the mirror, and where its repositories are at the origin.

use std::fmt;
use std::str::FromStr;

use longshore_proto::RepositoryName;

use super::Namespace;

/// `NAME`: a name of the origin itself. `NAME=PREFIX`: another registry, which the origin fronts
/// under that prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    name: Namespace,
    prefix: Option<RepositoryName>,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not NAME or NAME=PREFIX with a host[:port], or _default alone")]
pub struct InvalidMirrored;

impl Mirrored {
    /// As containerd names it.
    pub const fn name(&self) -> &Namespace {
        &self.name
    }

    /// Whether the origin only stands in front of it.
    pub const fn is_fronted(&self) -> bool {
        self.prefix.is_some()
    }

    /// What its `repository` is called at the origin; `None` when that gets too long.
    pub fn at_origin(&self, repository: RepositoryName) -> Option<RepositoryName> {
        match &self.prefix {
            None => Some(repository),
            Some(prefix) => format!("{prefix}/{repository}").parse().ok(),
        }
    }
}

impl From<Namespace> for Mirrored {
    fn from(name: Namespace) -> Self {
        Self { name, prefix: None }
    }
}

impl FromStr for Mirrored {
    type Err = InvalidMirrored;

    fn from_str(text: &str) -> Result<Self, InvalidMirrored> {
        let (name, prefix) = match text.split_once('=') {
            Some((name, prefix)) => (name, Some(prefix.parse().map_err(|_| InvalidMirrored)?)),
            None => (text, None),
        };
        let name: Namespace = name.parse().map_err(|_| InvalidMirrored)?;
        // All registries under one prefix would be each other's.
        if name.is_default() && prefix.is_some() {
            return Err(InvalidMirrored);
        }
        Ok(Self { name, prefix })
    }
}

impl fmt::Display for Mirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            None => self.name.fmt(f),
            Some(prefix) => write!(f, "{}={prefix}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fronted_registrys_repositories_are_under_its_prefix() {
        let at = |text: &str| {
            let mirrored: Mirrored = text.parse().unwrap();
            assert_eq!(mirrored.to_string(), text);
            mirrored.at_origin("library/web".parse().unwrap()).unwrap().to_string()
        };
        assert_eq!(at("docker.io=hub"), "hub/library/web");
        assert_eq!(at("quay.example:5000=other/quay"), "other/quay/library/web");
        assert_eq!(at("10.77.0.1:5000"), "library/web");
        let mirrored: Mirrored = "docker.io=hub".parse().unwrap();
        let long = "a".repeat(253);
        assert_eq!(mirrored.at_origin(long.parse().unwrap()), None);
    }

    #[test]
    fn what_would_mix_registries_is_refused() {
        for text in ["_default=hub", "docker.io=", "=hub", "docker.io=Hub", "docker.io=a=b", "../x"]
        {
            assert_eq!(text.parse::<Mirrored>(), Err(InvalidMirrored), "{text}");
        }
    }
}
