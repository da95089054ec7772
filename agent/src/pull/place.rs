//! Where something is asked for: a registry and a repository in it.

use longshore_proto::RepositoryName;

/// A repository of the origin itself, or of a registry that the origin fronts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    namespace: String,
    repository: RepositoryName,
    local: RepositoryName,
}

impl Place {
    /// A repository of the origin itself.
    pub fn at_origin(repository: RepositoryName) -> Self {
        Self { namespace: String::new(), local: repository.clone(), repository }
    }

    /// A repository of the registry that containerd calls `namespace`; `None` when the two make no
    /// name together.
    pub fn fronted(namespace: &str, repository: RepositoryName) -> Option<Self> {
        let host = namespace.to_ascii_lowercase().replace(':', ".");
        let local = format!("{host}/{repository}").parse().ok()?;
        Some(Self { namespace: namespace.to_owned(), repository, local })
    }

    /// As containerd's `ns`; empty for the origin itself.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name at the registry.
    pub const fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// The name here and at the origin: two registries may use the same one.
    pub const fn local(&self) -> &RepositoryName {
        &self.local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_registries_never_share_a_name() {
        let name: RepositoryName = "library/web".parse().unwrap();
        let origin = Place::at_origin(name.clone());
        let fronted = Place::fronted("docker.io", name.clone()).unwrap();
        assert_eq!(fronted.local().as_str(), "docker.io/library/web");
        assert_ne!(origin.local(), fronted.local());
        assert!(Place::fronted("[::1]:5000", name).is_none());
    }
}
