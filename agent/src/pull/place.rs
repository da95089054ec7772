//! Where something is asked for: a repository, of a registry that containerd names with `ns`.

use longshore_proto::RepositoryName;

use crate::containerd::Namespace;

/// Any registry.
const ANY: &str = "_default";

/// A repository of the origin. Origins that front other registries will have those here too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place(RepositoryName);

/// The names under which containerd knows the origin: `containerd.registries`.
#[derive(Clone, Debug)]
pub struct Registries(Vec<Namespace>);

impl Place {
    /// A repository of the origin itself.
    pub const fn at_origin(repository: RepositoryName) -> Self {
        Self(repository)
    }

    /// The repository's name, here and at the origin.
    pub const fn repository(&self) -> &RepositoryName {
        &self.0
    }
}

impl Registries {
    /// These names.
    pub const fn new(names: Vec<Namespace>) -> Self {
        Self(names)
    }

    /// The place of a repository at the registry that containerd names; `None` when that one is
    /// not served. A request without a name means the origin.
    pub fn place(&self, namespace: Option<&str>, repository: RepositoryName) -> Option<Place> {
        let served =
            |name: &str| self.0.iter().any(|known| known.as_str() == name || known.as_str() == ANY);
        namespace.is_none_or(served).then_some(Place(repository))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_the_configured_names_only() {
        let place = |names: &[&str], namespace| {
            let names = names.iter().map(|name| name.parse().unwrap()).collect();
            Registries::new(names).place(namespace, "library/web".parse().unwrap()).is_some()
        };
        assert!(place(&["10.0.0.1:5000"], Some("10.0.0.1:5000")) && place(&["a.example"], None));
        assert!(!place(&["10.0.0.1:5000"], Some("10.0.0.1")));
        assert!(place(&["_default"], Some("evil.example")));
    }
}
