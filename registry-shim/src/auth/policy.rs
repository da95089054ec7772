//! The policy: rules from the configuration, compiled once.
//!
//! Any rule that fits allows; none forbids. What a subject may do is picked out of the rules when
//! it is identified ([`Grants`]), so that a request only compares patterns of names. Pure: no I/O,
//! no clock.

use longshore_proto::RepositoryName;

use super::pattern::Pattern;
use super::{Action, NodeSession};
use crate::config::auth::{Auth as AuthConfig, Rule as RuleConfig, RuleAction};

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Actions(u8);

/// What one subject may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants(Box<[Grant]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    actions: Actions,
    repositories: Box<[Pattern]>,
}

/// Who may do what.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<Rule>,
    anonymous: Grants,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Pattern>,
    grant: Grant,
}

/// A rule that says nothing, or something else than its author meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {number}: {message}")]
pub(super) struct InvalidRule {
    /// From 1.
    pub number: usize,
    message: String,
}

impl Actions {
    /// All.
    pub(super) const ALL: Self = Self(0b111);

    /// These.
    pub(super) fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        Self(actions.into_iter().fold(0, |bits, action| bits | bit(action)))
    }

    /// Whether it holds that one.
    pub(super) const fn contains(self, action: Action) -> bool {
        self.0 & bit(action) != 0
    }

    /// What both hold.
    #[must_use]
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What either holds.
    #[must_use]
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds none.
    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members.
    pub(super) fn iter(self) -> impl Iterator<Item = Action> {
        Action::EACH.into_iter().filter(move |action| self.contains(*action))
    }
}

const fn bit(action: Action) -> u8 {
    match action {
        Action::Pull => 0b001,
        Action::Push => 0b010,
        Action::Delete => 0b100,
    }
}

impl Grants {
    /// Whether that is allowed.
    pub(super) fn allow(&self, action: Action, repository: &RepositoryName) -> bool {
        self.0.iter().any(|grant| grant.actions.contains(action) && grant.covers(repository))
    }

    /// Everything that is allowed there.
    pub(super) fn actions(&self, repository: &RepositoryName) -> Actions {
        let covering = self.0.iter().filter(|grant| grant.covers(repository));
        covering.fold(Actions::default(), |sum, grant| sum.or(grant.actions))
    }

    /// Whether nothing is allowed anywhere.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Grant {
    fn covers(&self, repository: &RepositoryName) -> bool {
        self.repositories.iter().any(|pattern| pattern.matches(repository.as_str()))
    }
}

impl Policy {
    /// The configured rules. Without any, users may do everything and nodes pull everything; where
    /// nobody is asked who they are, so may anybody.
    pub(super) fn new(config: &AuthConfig) -> Result<Self, InvalidRule> {
        let rule = |subject: &str, actions| Rule {
            subjects: vec![Pattern::new(subject)],
            grant: Grant { actions, repositories: [Pattern::Any].into() },
        };
        let pull = Actions::of([Action::Pull]);
        let rules = if !config.is_on() {
            vec![rule("anonymous", Actions::ALL), rule("node", pull)]
        } else if config.rule.is_empty() {
            vec![rule("user:*", Actions::ALL), rule("node", pull)]
        } else {
            let numbered = config.rule.iter().enumerate();
            numbered.map(|(at, rule)| compile(at + 1, rule)).collect::<Result<_, _>>()?
        };
        let mut policy = Self { rules, anonymous: Grants::default() };
        policy.anonymous = policy.grants(&["anonymous"]);
        Ok(policy)
    }

    /// What whoever bears these names may do.
    pub(super) fn grants<S: AsRef<str>>(&self, subjects: &[S]) -> Grants {
        let fits = |rule: &&Rule| subjects.iter().any(|subject| rule.names(subject.as_ref()));
        Grants(self.rules.iter().filter(fits).map(|rule| rule.grant.clone()).collect())
    }

    /// What nobody in particular may do.
    pub(super) const fn anonymous(&self) -> &Grants {
        &self.anonymous
    }

    /// Whether a node may pull that.
    pub(super) fn node_may_pull(&self, node: &NodeSession, repository: &RepositoryName) -> bool {
        let pool = format!("node:{}", node.pool);
        self.rules.iter().any(|rule| {
            rule.grant.actions.contains(Action::Pull)
                && rule.grant.covers(repository)
                && (rule.names("node") || rule.names(&pool))
        })
    }
}

impl Rule {
    fn names(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| pattern.matches(subject))
    }
}

fn compile(number: usize, rule: &RuleConfig) -> Result<Rule, InvalidRule> {
    let invalid = |message: String| InvalidRule { number, message };
    for (key, empty) in [
        ("subjects", rule.subjects.is_empty()),
        ("repositories", rule.repositories.is_empty()),
        ("actions", rule.actions.is_empty()),
    ] {
        if empty {
            return Err(invalid(format!("{key} is empty")));
        }
    }
    if let Some(subject) = rule.subjects.iter().find(|subject| !is_subject(subject)) {
        return Err(invalid(format!("{subject:?} is no subject")));
    }
    if let Some(name) = rule.repositories.iter().find(|name| !is_repository(name)) {
        return Err(invalid(format!("{name:?} can fit no repository")));
    }
    let actions = rule.actions.iter().map(|action| match action {
        RuleAction::Pull => Actions::of([Action::Pull]),
        RuleAction::Push => Actions::of([Action::Push]),
        RuleAction::Delete => Actions::of([Action::Delete]),
        RuleAction::All => Actions::ALL,
    });
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
    Ok(Rule {
        subjects: patterns(&rule.subjects),
        grant: Grant {
            actions: actions.fold(Actions::default(), Actions::or),
            repositories: patterns(&rule.repositories).into(),
        },
    })
}

/// A kind is spelled out, so that a pattern never reaches into another kind.
fn is_subject(text: &str) -> bool {
    matches!(text, "*" | "anonymous" | "node")
        || ["user:", "node:", "group:", "jwt:", "certificate:"]
            .iter()
            .any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.is_empty()))
}

fn is_repository(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "*/._-".contains(c);
    !text.is_empty() && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, &str, &[RuleAction])]) -> Policy {
        let rule = |(subject, repository, actions): &(&str, &str, &[RuleAction])| RuleConfig {
            subjects: vec![(*subject).to_owned()],
            repositories: vec![(*repository).to_owned()],
            actions: actions.to_vec(),
        };
        let rule = rules.iter().map(rule).collect();
        Policy::new(&AuthConfig { rule, ..AuthConfig::default() }).unwrap()
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn node(pool: &str) -> NodeSession {
        let (peer_id, zone) = ("p".to_owned(), "a".to_owned());
        NodeSession { peer_id, pool: pool.to_owned(), zone, expires_at_s: 0 }
    }

    #[test]
    fn what_several_rules_allow_adds_up() {
        let policy = policy(&[
            ("user:*", "*", &[RuleAction::Pull]),
            ("user:alice", "team/*", &[RuleAction::Push]),
            ("group:ci", "team/*", &[RuleAction::All]),
        ]);
        let alice = policy.grants(&["user:alice"]);
        assert!(alice.allow(Action::Pull, &name("other/a")));
        assert!(!alice.allow(Action::Push, &name("other/a")));
        let both = Actions::of([Action::Pull, Action::Push]);
        assert_eq!(alice.actions(&name("team/a")), both);
        let ci = policy.grants(&["jwt:ci:x", "group:ci"]);
        assert_eq!(ci.actions(&name("team/a")), Actions::ALL);
        assert_eq!(ci.actions(&name("other/a")), Actions::default());
        assert!(policy.grants(&["user"]).is_empty() && policy.anonymous().is_empty());
    }

    #[test]
    fn a_node_pulls_what_its_pool_may() {
        let policy = policy(&[
            ("node", "base/*", &[RuleAction::All]),
            ("node:gpu", "cuda/*", &[RuleAction::Pull]),
            ("node:eu-*", "eu/*", &[RuleAction::Pull]),
        ]);
        assert!(policy.node_may_pull(&node("default"), &name("base/a")));
        assert!(!policy.node_may_pull(&node("default"), &name("cuda/a")));
        assert!(policy.node_may_pull(&node("gpu"), &name("cuda/a")));
        assert!(policy.node_may_pull(&node("eu-1"), &name("eu/a")));
        assert!(!policy.node_may_pull(&node("us-1"), &name("eu/a")));
    }

    #[test]
    fn without_rules_users_do_everything_and_where_auth_is_off_anybody() {
        let off = Policy::new(&AuthConfig::default()).unwrap();
        assert_eq!(off.anonymous().actions(&name("a")), Actions::ALL);
        let users_file = Some("users".into());
        let on = Policy::new(&AuthConfig { users_file, ..AuthConfig::default() }).unwrap();
        assert!(on.anonymous().is_empty());
        assert_eq!(on.grants(&["user:a"]).actions(&name("a")), Actions::ALL);
        assert!(on.grants(&["jwt:ci:a", "certificate:cn:a"]).is_empty());
        assert!(off.node_may_pull(&node("x"), &name("a")));
        assert!(on.node_may_pull(&node("x"), &name("a")));
    }

    #[test]
    fn a_rule_that_can_fit_nobody_is_refused() {
        let full = RuleConfig {
            subjects: vec!["node".into()],
            repositories: vec!["a".into()],
            actions: vec![RuleAction::Pull],
        };
        let error = |rule: RuleConfig| {
            let rule = vec![full.clone(), rule];
            Policy::new(&AuthConfig { rule, ..AuthConfig::default() }).unwrap_err().to_string()
        };
        let with_subject =
            |subject: &str| RuleConfig { subjects: vec![subject.into()], ..full.clone() };
        assert_eq!(error(with_subject("alice")), "rule 2: \"alice\" is no subject");
        for wrong in ["user", "user:", "user*", "users:a", "nodes", ""] {
            assert!(error(with_subject(wrong)).ends_with("is no subject"), "{wrong}");
        }
        let repositories = vec!["Team/*".into()];
        let wrong = RuleConfig { repositories, ..full.clone() };
        assert!(error(wrong).ends_with("can fit no repository"));
        let wrong = RuleConfig { actions: vec![], ..full.clone() };
        assert_eq!(error(wrong), "rule 2: actions is empty");
    }
}
