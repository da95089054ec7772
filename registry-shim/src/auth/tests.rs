//! The gate behind its own door: who is who, and what they may do.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use longshore_proto::sign::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::config::Join;
use crate::config::auth::{Rule, RuleAction};
use crate::serve::Peer;

/// 1000 s.
const NOW_MS: u64 = 1_000_000;
const NOW_S: u64 = 1000;

fn configured(key: &SigningKey, config: &AuthConfig) -> Auth {
    Auth::new(&[key], config, &Join::default(), AuthMetrics::default()).unwrap()
}

#[tokio::test]
async fn what_an_accepted_key_gave_counts_until_it_is_taken_out() {
    let [old, new] = [(); 2].map(|()| SigningKey::generate().0);
    let config =
        AuthConfig { rule: vec![rule("*", "*", &[RuleAction::Pull])], ..Default::default() };
    let gate = |keys: &[&SigningKey]| {
        Auth::new(keys, &config, &Join::default(), AuthMetrics::default()).unwrap()
    };
    let (before, during, after) = (gate(&[&old]), gate(&[&new, &old]), gate(&[&new]));
    let session = |auth: &Auth| format!("Bearer {}", auth.issue_session(&node()));
    for (issued, counts_after) in [(session(&before), false), (session(&during), true)] {
        assert!(who(&during, &issued, NOW_MS).await.is_ok());
        assert_eq!(who(&after, &issued, NOW_MS).await.is_ok(), counts_after);
    }
}

fn open(key: &SigningKey) -> Auth {
    configured(key, &AuthConfig::default())
}

fn rule(subject: &str, repository: &str, actions: &[RuleAction]) -> Rule {
    Rule {
        subjects: vec![subject.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: actions.to_vec(),
    }
}

fn with_rules(rule: Vec<Rule>) -> Auth {
    configured(&SigningKey::generate().0, &AuthConfig { rule, ..AuthConfig::default() })
}

fn peer() -> Peer {
    Peer::at("10.0.0.1:1000".parse().unwrap())
}

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
}

fn node() -> NodeSession {
    NodeSession {
        peer_id: "p".into(),
        pool: "default".into(),
        zone: "a".into(),
        expires_at_s: NOW_S + 100,
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

async fn who(auth: &Auth, credential: &str, now_ms: u64) -> Result<Actor, AuthError> {
    auth.identify(&headers(credential), &peer(), now_ms).await
}

#[tokio::test]
async fn knows_a_node_by_its_session() {
    let auth = open(&SigningKey::generate().0);
    let session = Actor::Node(Arc::new(node()));
    let token = auth.issue_session(&node());
    assert_eq!(who(&auth, &format!("bearer {token}"), NOW_MS).await, Ok(session.clone()));
    // Remembered, and no longer than it lasts.
    let shown = headers(&format!("Bearer {token}"));
    let last = NOW_MS + 99_999;
    assert_eq!(auth.actor(&shown, &peer(), last), Some(Ok(session)));
    let expired = who(&auth, &format!("Bearer {token}"), last + 1).await;
    assert_eq!(expired, Err(AuthError::Unauthorized));
    assert_eq!(who(&auth, "Bearer forged", 0).await, Err(AuthError::Unauthorized));
    assert_eq!(who(&auth, "Basic YTpi", 0).await, Ok(Actor::Anonymous));
}

#[tokio::test]
async fn any_instance_with_the_key_knows_sessions_and_tokens_and_no_other() {
    let (key, pem) = SigningKey::generate();
    let rules = AuthConfig {
        rule: vec![rule("anonymous", "*", &[RuleAction::Pull])],
        ..AuthConfig::default()
    };
    let first = configured(&key, &rules);
    let session = format!("Bearer {}", first.issue_session(&node()));
    let token = first.issue_token(&Actor::Anonymous, Scope::default(), NOW_S).unwrap().token;
    let token = format!("Bearer {token}");
    let same = configured(&SigningKey::from_pem(&pem).unwrap(), &rules);
    let other = configured(&SigningKey::generate().0, &rules);
    for credential in [session, token] {
        assert!(who(&same, &credential, NOW_MS).await.is_ok());
        assert_eq!(who(&other, &credential, NOW_MS).await, Err(AuthError::Unauthorized));
    }
}

#[test]
fn a_node_may_pull_and_not_push_whatever_the_rules_say() {
    let session = Actor::Node(Arc::new(node()));
    let open = open(&SigningKey::generate().0);
    let ruled = with_rules(vec![rule("node", "*", &[RuleAction::All])]);
    for auth in [open, ruled] {
        assert_eq!(auth.authorize(&session, Action::Pull, &name("a")), Ok(()));
        let push = auth.authorize(&session, Action::Push, &name("a"));
        assert_eq!(push, Err(AuthError::Denied));
        let token = auth.issue_token(&session, Scope::default(), NOW_S);
        assert_eq!(token, Err(AuthError::Denied));
    }
}

#[tokio::test]
async fn a_token_does_what_it_was_given_for_as_long_as_the_policy_allows_it() {
    let auth = with_rules(vec![
        rule("anonymous", "public/*", &[RuleAction::Pull]),
        rule("group:ci", "team/*", &[RuleAction::Pull, RuleAction::Push]),
    ]);
    let asked = |text: &str| Scope::parse(std::iter::once(text)).unwrap();
    let ci = auth.principal(vec!["jwt:ci:x".into(), "group:ci".into()], None);
    let ci = Actor::Known(ci);
    let scope = asked("repository:team/a:pull,push,delete repository:other/b:pull");
    let issued = auth.issue_token(&ci, scope, NOW_S).unwrap();
    let bearer = who(&auth, &format!("Bearer {}", issued.token), NOW_MS).await.unwrap();
    assert_eq!(bearer.label(), "jwt:ci:x");
    let may =
        |actor: &Actor, action, repository: &str| auth.authorize(actor, action, &name(repository));
    assert_eq!(may(&bearer, Action::Push, "team/a"), Ok(()));
    assert_eq!(may(&bearer, Action::Delete, "team/a"), Err(AuthError::Denied));
    assert_eq!(may(&bearer, Action::Pull, "team/b"), Err(AuthError::Scope));
    assert_eq!(may(&bearer, Action::Pull, "other/b"), Err(AuthError::Denied));
    // It is no key to another one.
    let another = auth.issue_token(&bearer, asked("repository:team/a:pull"), NOW_S);
    assert_eq!(another, Err(AuthError::Unauthorized));

    let public = asked("repository:public/a:pull,push");
    let nobody = auth.issue_token(&Actor::Anonymous, public, NOW_S).unwrap().token;
    let nobody = who(&auth, &format!("Bearer {nobody}"), NOW_MS).await.unwrap();
    assert_eq!(may(&nobody, Action::Pull, "public/a"), Ok(()));
    // With a name it might be more.
    assert_eq!(may(&nobody, Action::Push, "public/a"), Err(AuthError::Anonymous));
    assert_eq!(may(&Actor::Anonymous, Action::Pull, "team/a"), Err(AuthError::Anonymous));
    assert!(nobody.is_anonymous() && !bearer.is_anonymous());
}

#[test]
fn nobody_gets_a_token_where_nobody_may_do_anything() {
    let auth = with_rules(vec![rule("user:a", "*", &[RuleAction::Pull])]);
    let issued = auth.issue_token(&Actor::Anonymous, Scope::default(), NOW_S);
    assert_eq!(issued, Err(AuthError::Anonymous));
}

#[test]
fn a_challenge_says_what_to_ask_for_and_where() {
    let auth = with_rules(vec![rule("user:a", "*", &[RuleAction::Pull])]);
    let at = Challenge { tls: true, authority: Some("r.example:5000"), advertise: None };
    let value = |error, wanted, at| {
        let value = auth.challenge(error, wanted, at);
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let wanted = Wanted::Repository(Action::Push, &name("team/a"));
    assert_eq!(
        value(AuthError::Anonymous, wanted, at),
        "Bearer realm=\"https://r.example:5000/token\",service=\"longshore-registry\",\
         scope=\"repository:team/a:pull,push\""
    );
    let hostile = Challenge { authority: Some("a\",evil=\"b"), tls: false, ..at };
    let found = value(AuthError::Unauthorized, Wanted::Catalog, hostile);
    assert_eq!(
        found,
        "Bearer realm=\"http://localhost/token\",service=\"longshore-registry\",\
         scope=\"registry:catalog:*\",error=\"invalid_token\""
    );
    assert_eq!(value(AuthError::Denied, Wanted::Base, at), "");
}

#[tokio::test]
async fn nothing_that_can_be_printed_holds_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    users::put(&path, "alice", "the-password").unwrap();
    let stored = std::fs::read_to_string(&path).unwrap();
    let config = AuthConfig { users_file: Some(path), ..AuthConfig::default() };
    let auth = configured(&SigningKey::generate().0, &config);
    let alice = auth.identify_by_password("alice", "the-password", &peer(), NOW_MS).await.unwrap();
    let issued = auth.issue_token(&alice, Scope::default(), NOW_S).unwrap();
    let bearer = who(&auth, &format!("Bearer {}", issued.token), NOW_MS).await.unwrap();
    let printed = format!("{auth:?} {alice:?} {issued:?} {bearer:?}");
    let hash = stored.trim().rsplit('$').next().unwrap();
    for secret in ["the-password", hash, issued.token.rsplit('.').next().unwrap()] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

proptest! {
    #[test]
    fn no_header_gets_more_than_nobody(value in "(Bearer |bearer |Basic |)[ -~]{0,200}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let auth = with_rules(vec![rule("user:a", "*", &[RuleAction::All])]);
        let found = runtime.block_on(who(&auth, &value, NOW_MS));
        prop_assert_eq!(found, Err(AuthError::Unauthorized));
    }
}
