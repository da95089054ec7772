//! Scopes: what a token is asked and given for, as Docker's clients write it.
//!
//! Source: Docker Registry v2 "Token Scope Documentation": `repository:NAME:pull,push`, several
//! separated by spaces or in several parameters, `registry:catalog:*`. What means nothing here is
//! left out, as the documentation asks; what is too long is refused.

use longshore_proto::RepositoryName;
use serde::{Deserialize, Serialize};

use super::Action;
use super::policy::Actions;

/// Scopes of one token: a client asks for one or two, a mount for two.
const SCOPES_MAX: usize = 64;

/// What a token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Sorted by name: a boot set is dozens.
    repositories: Vec<(RepositoryName, Actions)>,
    catalog: bool,
}

/// More scopes than any client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {SCOPES_MAX} scopes")]
pub struct TooManyScopes;

/// One entry of the claim `access`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Scope {
    /// Reads what a client asks for.
    pub fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, TooManyScopes> {
        let mut scope = Self::default();
        for (at, text) in texts.flat_map(str::split_whitespace).enumerate() {
            if at >= SCOPES_MAX {
                return Err(TooManyScopes);
            }
            scope.add(text);
        }
        Ok(scope)
    }

    /// A name may hold a host and a port, but none of ours does; the last colon ends it all the same.
    fn add(&mut self, text: &str) -> Option<()> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(class)` is an old way to say what the repository holds.
        let kind = kind.split('(').next()?;
        self.enter(kind, name, actions.split(','))
    }

    fn enter<'a>(
        &mut self,
        kind: &str,
        name: &str,
        actions: impl Iterator<Item = &'a str>,
    ) -> Option<()> {
        match (kind, name) {
            ("repository", name) => {
                let (name, actions) = (name.parse().ok()?, actions.fold(Actions::default(), read));
                match self.repositories.binary_search_by(|(known, _)| known.cmp(&name)) {
                    Ok(at) => self.repositories[at].1 = self.repositories[at].1.or(actions),
                    Err(at) => self.repositories.insert(at, (name, actions)),
                }
            }
            ("registry", "catalog") => self.catalog = true,
            _ => {}
        }
        Some(())
    }

    /// What of it is allowed; `allowed` says what is, for each repository.
    #[must_use]
    pub(super) fn granted(self, allowed: impl Fn(&RepositoryName) -> Actions) -> Self {
        let each = self.repositories.into_iter().map(|(name, asked)| {
            let actions = asked.and(allowed(&name));
            (name, actions)
        });
        Self { repositories: each.filter(|(_, got)| !got.is_empty()).collect(), ..self }
    }

    /// Whether it covers that.
    pub(super) fn covers(&self, action: Action, repository: &RepositoryName) -> bool {
        let found = self.repositories.binary_search_by(|(name, _)| name.cmp(repository));
        found.is_ok_and(|at| self.repositories[at].1.contains(action))
    }

    /// Whether the catalog may be listed with it.
    pub(super) const fn covers_catalog(&self) -> bool {
        self.catalog
    }

    /// As the claim `access`.
    pub(super) fn to_access(&self) -> Vec<Access> {
        let repositories = self.repositories.iter().map(|(name, actions)| Access {
            kind: "repository".to_owned(),
            name: name.as_str().to_owned(),
            actions: actions.iter().map(|action| action.name().to_owned()).collect(),
        });
        let catalog = self.catalog.then(|| Access {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        });
        repositories.chain(catalog).collect()
    }

    /// Of the claim `access`.
    pub(super) fn from_access(access: &[Access]) -> Self {
        let mut scope = Self::default();
        for Access { kind, name, actions } in access {
            scope.enter(kind, name, actions.iter().map(String::as_str));
        }
        scope
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        self.repositories.iter().map(|(name, _)| name.as_str().len() + 48).sum()
    }
}

fn read(sum: Actions, text: &str) -> Actions {
    match text {
        "*" => Actions::ALL,
        text => {
            sum.or(Actions::of(Action::EACH.into_iter().filter(|action| action.name() == text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(texts: &[&str]) -> Scope {
        Scope::parse(texts.iter().copied()).unwrap()
    }

    #[test]
    fn reads_what_clients_ask_for() {
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        let scope =
            parse(&["repository:a/b:pull,push repository:c:pull", "repository(plugin):d:*"]);
        assert!(scope.covers(Action::Push, &name("a/b")) && scope.covers(Action::Pull, &name("c")));
        assert!(!scope.covers(Action::Push, &name("c")) && !scope.covers(Action::Pull, &name("a")));
        assert!(scope.covers(Action::Delete, &name("d")) && !scope.covers_catalog());
        assert!(parse(&["registry:catalog:*"]).covers_catalog());
        assert_eq!(
            parse(&["repository:a:pull", "repository:a:push"]),
            parse(&["repository:a:push,pull"])
        );
    }

    #[test]
    fn leaves_out_what_means_nothing_and_refuses_what_is_too_much() {
        for text in
            ["", ":", "a", "repository", "repository:A:pull", "registry:x:*", "other:a:pull"]
        {
            assert_eq!(parse(&[text]), Scope::default(), "{text}");
        }
        let many = vec!["repository:a:pull"; SCOPES_MAX + 1].join(" ");
        assert_eq!(Scope::parse(std::iter::once(many.as_str())), Err(TooManyScopes));
    }

    #[test]
    fn is_given_only_what_is_allowed() {
        let allowed = |name: &RepositoryName| match name.as_str() {
            "a" => Actions::of([Action::Pull]),
            _ => Actions::default(),
        };
        let granted = parse(&["repository:a:pull,push repository:b:pull"]).granted(allowed);
        assert_eq!(granted, parse(&["repository:a:pull"]));
    }

    proptest! {
        #[test]
        fn survives_any_text_and_reads_back_from_its_claim(text in "\\PC{0,200}") {
            if let Ok(scope) = Scope::parse(std::iter::once(text.as_str())) {
                prop_assert_eq!(Scope::from_access(&scope.to_access()), scope);
            }
        }

        #[test]
        fn reads_back_from_its_claim(names in proptest::collection::vec("[a-c]{1,3}(/[a-c]{1,2})?", 0..9)) {
            let text = names.iter().map(|name| format!("repository:{name}:pull,delete")).collect::<Vec<_>>();
            let scope = Scope::parse(text.iter().map(String::as_str)).unwrap();
            prop_assert_eq!(Scope::from_access(&scope.to_access()), scope);
        }
    }
}
