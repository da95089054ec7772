//! Where something is asked for: a repository, of a registry that containerd names with `ns`.

use longshore_proto::RepositoryName;

use crate::containerd::Mirrored;

/// A repository of the origin; those of a registry that it fronts are under its prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place(RepositoryName);

/// What containerd asks the mirror for: `containerd.registries`.
#[derive(Clone, Debug)]
pub struct Registries(Vec<Mirrored>);

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
    pub const fn new(names: Vec<Mirrored>) -> Self {
        Self(names)
    }

    /// The place of a repository at the registry that containerd names; `None` when that one is
    /// not served. A request without a name means the origin.
    pub fn place(&self, namespace: Option<&str>, repository: RepositoryName) -> Option<Place> {
        let Some(name) = namespace else { return Some(Place(repository)) };
        let named = self.0.iter().find(|known| known.name().as_str() == name);
        let any = || self.0.iter().find(|known| known.name().is_default());
        named.or_else(any)?.at_origin(repository).map(Place)
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

    #[test]
    fn a_fronted_registry_is_never_taken_for_the_origin() {
        let names = ["_default", "docker.io=hub", "quay.example=quay"];
        let registries = Registries::new(names.map(|name| name.parse().unwrap()).to_vec());
        let place = |namespace: Option<&str>| {
            let place = registries.place(namespace, "library/web".parse().unwrap()).unwrap();
            place.repository().to_string()
        };
        assert_eq!(place(Some("docker.io")), "hub/library/web");
        assert_eq!(place(Some("quay.example")), "quay/library/web");
        assert_eq!(
            (place(Some("other.example")), place(None)),
            ("library/web".into(), "library/web".into())
        );
    }
}
