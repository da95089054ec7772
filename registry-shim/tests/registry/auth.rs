//! Who may do what, asked through the public door as clients of Docker's token flow ask it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use longshore_proto::media_type;
use longshore_registry::auth::users;
use longshore_registry::config::Config;
use longshore_registry::config::auth::{Rule, RuleAction};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::common::{TestRegistry, header, image_manifest, refusal, refused, sha256};

const PASSWORD: &str = "correct-horse-battery";

fn rule(subject: &str, repository: &str, actions: &[RuleAction]) -> Rule {
    Rule {
        subjects: vec![subject.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: actions.to_vec(),
    }
}

/// Alice owns `team/`, Bob reads it, `public/` is everybody's to read.
fn team_rules() -> Vec<Rule> {
    vec![
        rule("user:alice", "team/*", &[RuleAction::All]),
        rule("user:alice", "public/*", &[RuleAction::Pull, RuleAction::Push]),
        rule("user:bob", "team/*", &[RuleAction::Pull]),
        rule("*", "public/*", &[RuleAction::Pull]),
    ]
}

/// A registry with the users `alice` and `bob`; the file's directory goes with the value.
struct Guarded {
    registry: TestRegistry,
    users_file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Guarded {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let users_file = directory.path().join("users");
        for name in ["alice", "bob"] {
            users::put(&users_file, name, PASSWORD).unwrap();
        }
        let registry = TestRegistry::start_with(|config| {
            config.auth.users_file = Some(users_file.clone());
            config.auth.rule = team_rules();
            change(config);
        })
        .await;
        Self { registry, users_file, _directory: directory }
    }

    /// What `/token` answers to a user; nobody for an empty name.
    async fn ask(&self, user: &str, password: &str, query: &str) -> Response {
        let request = self.registry.request(Method::GET, &format!("/token?{query}"));
        let request =
            if user.is_empty() { request } else { request.basic_auth(user, Some(password)) };
        request.send().await.unwrap()
    }

    async fn token(&self, user: &str, scope: &str) -> String {
        let query = format!("service=longshore-registry&scope={scope}");
        let response = self.ask(user, PASSWORD, &query).await;
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["token"], answer["access_token"]);
        answer["token"].as_str().unwrap().to_owned()
    }

    async fn send(&self, token: &str, method: Method, path: &str) -> Response {
        let request = self.registry.request(method, path);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        request.send().await.unwrap()
    }

    async fn status(&self, token: &str, method: Method, path: &str) -> u16 {
        self.send(token, method, path).await.status().as_u16()
    }

    /// Pushes an image of one layer with a token.
    async fn push(&self, token: &str, repository: &str) {
        let config = b"{}";
        for blob in [config.as_slice(), b"layer"] {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={}", sha256(blob));
            let post = self.registry.request(Method::POST, &path).bearer_auth(token);
            let posted = post.body(blob.to_vec()).send().await.unwrap();
            assert_eq!(posted.status(), StatusCode::CREATED);
        }
        let path = format!("/v2/{repository}/manifests/v1");
        let put = self.registry.request(Method::PUT, &path).bearer_auth(token);
        let put = put.header(CONTENT_TYPE, media_type::OCI_MANIFEST);
        let put = put.body(image_manifest(config, &[b"layer"])).send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }
}

/// The values of `name="value"` in a challenge.
fn parameter(challenge: &str, name: &str) -> String {
    let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap_or_else(|| {
        panic!("no {name} in {challenge}");
    });
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_client_is_told_where_to_get_a_token_gets_it_and_comes_back() {
    let guarded = Guarded::start(|_| {}).await;
    let refused = guarded.send("", Method::GET, "/v2/").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let schemes: Vec<_> = refused.headers().get_all(WWW_AUTHENTICATE).iter().collect();
    assert_eq!(schemes.len(), 1, "clients join the headers of a name: {schemes:?}");
    let challenge = header(&refused, WWW_AUTHENTICATE.as_str());
    assert!(challenge.starts_with("Bearer "), "{challenge}");
    assert_eq!(parameter(&challenge, "realm"), guarded.registry.url("/token"));
    assert_eq!(parameter(&challenge, "service"), "longshore-registry");

    let put = guarded.send("", Method::PUT, "/v2/team/app/manifests/v1").await;
    let challenge = header(&put, WWW_AUTHENTICATE.as_str());
    assert_eq!(refusal(put).await, refused_as_unknown());
    let scope = parameter(&challenge, "scope");
    assert_eq!(scope, "repository:team/app:pull,push");
    let token = guarded.token("alice", &scope).await;
    assert_eq!(guarded.status(&token, Method::GET, "/v2/").await, 200);
    guarded.push(&token, "team/app").await;
    let pull = guarded.send(&token, Method::GET, "/v2/team/app/manifests/v1").await;
    assert_eq!(pull.status(), StatusCode::OK);
}

fn refused_as_unknown() -> (u16, String) {
    refused(401, "UNAUTHORIZED")
}

#[tokio::test]
async fn the_policy_decides_by_repository_and_action() {
    let guarded = Guarded::start(|_| {}).await;
    let everything = "repository:team/app:* repository:public/app:*".replace(' ', "&scope=");
    let alice = guarded.token("alice", &everything).await;
    guarded.push(&alice, "team/app").await;
    guarded.push(&alice, "public/app").await;
    let bob = guarded.token("bob", &everything).await;
    let nobody = guarded.token("", &everything).await;
    let (get, delete) = (Method::GET, Method::DELETE);
    for (who, token, method, path, status) in [
        ("alice", &alice, &get, "/v2/team/app/manifests/v1", 200),
        ("bob", &bob, &get, "/v2/team/app/manifests/v1", 200),
        ("bob", &bob, &get, "/v2/team/app/tags/list", 200),
        ("bob", &bob, &delete, "/v2/team/app/manifests/v1", 403),
        ("bob", &bob, &Method::POST, "/v2/team/app/blobs/uploads/", 403),
        ("bob", &bob, &get, "/v2/other/app/manifests/v1", 403),
        ("nobody", &nobody, &get, "/v2/public/app/manifests/v1", 200),
        ("nobody", &nobody, &get, "/v2/team/app/manifests/v1", 401),
        ("nobody", &nobody, &Method::POST, "/v2/public/app/blobs/uploads/", 401),
        ("none", &String::new(), &get, "/v2/public/app/manifests/v1", 200),
        ("none", &String::new(), &get, "/v2/team/app/manifests/v1", 401),
        ("alice", &alice, &delete, "/v2/public/app/manifests/v1", 403),
        ("alice", &alice, &delete, "/v2/team/app/manifests/v1", 202),
    ] {
        let found = guarded.status(token, method.clone(), path).await;
        assert_eq!(found, status, "{who} {method} {path}");
    }
    let denied = guarded.send(&bob, Method::DELETE, "/v2/team/app/manifests/v1").await;
    assert_eq!(refusal(denied).await, refused(403, "DENIED"));
}

#[tokio::test]
async fn a_token_for_one_thing_is_refused_for_another_with_the_scope_to_ask_for() {
    let guarded = Guarded::start(|_| {}).await;
    let pull = guarded.token("alice", "repository:team/app:pull").await;
    let post = guarded.send(&pull, Method::POST, "/v2/team/app/blobs/uploads/").await;
    let challenge = header(&post, WWW_AUTHENTICATE.as_str());
    assert_eq!(parameter(&challenge, "error"), "insufficient_scope");
    assert_eq!(parameter(&challenge, "scope"), "repository:team/app:pull,push");
    assert_eq!(guarded.status(&pull, Method::GET, "/v2/team/other/tags/list").await, 401);
}

#[tokio::test]
async fn the_catalog_shows_what_the_caller_may_pull_and_a_mount_reads_its_source() {
    let guarded = Guarded::start(|config| {
        config.auth.rule.push(rule("user:bob", "bob/*", &[RuleAction::All]));
        config.auth.rule.push(rule("user:alice", "hidden/*", &[RuleAction::All]));
    })
    .await;
    let alice = "repository:team/app:*&scope=repository:public/a:*&scope=repository:public/b:*\
                 &scope=repository:hidden/x:*&scope=registry:catalog:*";
    let alice = guarded.token("alice", alice).await;
    for repository in ["team/app", "public/a", "public/b", "hidden/x"] {
        guarded.push(&alice, repository).await;
    }
    let bob = "registry:catalog:*&scope=repository:bob/x:pull,push\
               &scope=repository:team/app:pull&scope=repository:hidden/x:pull";
    let bob = guarded.token("bob", bob).await;
    let catalog = |token: String, query: &'static str| {
        let guarded = &guarded;
        async move {
            let path = format!("/v2/_catalog{query}");
            let response = guarded.send(&token, Method::GET, &path).await;
            let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            let listed: Value = response.json().await.unwrap();
            (listed["repositories"].to_string(), link)
        }
    };
    let (listed, link) = catalog(bob.clone(), "").await;
    assert_eq!((listed.as_str(), link), (r#"["public/a","public/b","team/app"]"#, None));
    let (listed, link) = catalog(bob.clone(), "?n=2").await;
    assert_eq!(listed, r#"["public/a","public/b"]"#);
    assert_eq!(link.unwrap(), "</v2/_catalog?n=2&last=public/b>; rel=\"next\"");
    let (listed, link) = catalog(String::new(), "?n=2").await;
    assert_eq!((listed.as_str(), link), (r#"["public/a","public/b"]"#, None));
    let narrow = guarded.token("bob", "repository:team/app:pull").await;
    assert_eq!(guarded.status(&narrow, Method::GET, "/v2/_catalog").await, 401);

    let layer = sha256(b"layer");
    for (from, status) in [("team/app", 201), ("hidden/x", 202)] {
        let path = format!("/v2/bob/x/blobs/uploads/?mount={layer}&from={from}");
        assert_eq!(guarded.status(&bob, Method::POST, &path).await, status, "{from}");
    }
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories_and_for_what_its_token_lacks() {
    let guarded = Guarded::start(|config| {
        config.auth.rule.push(rule("user:bob", "bob/*", &[RuleAction::All]));
    })
    .await;
    let alice = guarded.token("alice", "repository:team/app:*").await;
    guarded.push(&alice, "team/app").await;
    let layer = sha256(b"layer");
    let mount = |from: &str| format!("/v2/bob/x/blobs/uploads/?mount={layer}&from={from}");
    let both = "repository:bob/x:pull,push repository:team/app:pull";
    let narrow = guarded.token("bob", "repository:bob/x:pull,push").await;
    for token in ["", &narrow] {
        let refused = guarded.send(token, Method::POST, &mount("team/app")).await;
        let challenge = header(&refused, WWW_AUTHENTICATE.as_str());
        assert_eq!(refusal(refused).await, refused_as_unknown());
        assert_eq!(parameter(&challenge, "scope"), both);
    }
    let wide = guarded.token("bob", both).await;
    assert_eq!(guarded.status(&wide, Method::POST, &mount("team/app")).await, 201);
    // No token would help here: the client uploads.
    assert_eq!(guarded.status(&narrow, Method::POST, &mount("hidden/x")).await, 202);
}

#[tokio::test]
async fn a_mount_from_anywhere_looks_only_where_its_bearer_may_read() {
    let guarded = Guarded::start(|config| {
        config.auth.rule.push(rule("user:bob", "bob/*", &[RuleAction::All]));
        config.auth.rule.push(rule("user:alice", "hidden/*", &[RuleAction::All]));
    })
    .await;
    let alice = guarded.token("alice", "repository:hidden/x:* repository:team/app:*").await;
    guarded.push(&alice, "hidden/x").await;
    let mount = format!("/v2/bob/x/blobs/uploads/?mount={}", sha256(b"layer"));
    let wide = "repository:bob/x:pull,push repository:team/app:pull repository:hidden/x:pull";
    let (narrow, wide) = (
        guarded.token("bob", "repository:bob/x:pull,push").await,
        guarded.token("bob", wide).await,
    );
    assert_eq!(guarded.status(&wide, Method::POST, &mount).await, 202);
    guarded.push(&alice, "team/app").await;
    // What another token could do is not told.
    assert_eq!(guarded.status(&narrow, Method::POST, &mount).await, 202);
    assert_eq!(guarded.status(&wide, Method::POST, &mount).await, 201);
}

#[tokio::test]
async fn wrong_passwords_are_refused_and_slowed_down() {
    let guarded = Guarded::start(|_| {}).await;
    for _ in 0..10 {
        let refused = guarded.ask("alice", "wrong", "scope=repository:team/app:pull").await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(header(&refused, WWW_AUTHENTICATE.as_str()).starts_with("Basic "));
    }
    let slowed = guarded.ask("alice", PASSWORD, "").await;
    assert!((1..=60).contains(&header(&slowed, RETRY_AFTER.as_str()).parse::<u32>().unwrap()));
    assert_eq!(refusal(slowed).await, refused(429, "TOOMANYREQUESTS"));
    assert_eq!(guarded.ask("bob", PASSWORD, "").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_password_does_on_every_request_and_only_where_that_is_offered() {
    let guarded = Guarded::start(|_| {}).await;
    let basic = |guarded: &Guarded, user: &str, password: &str| {
        let request = guarded.registry.request(Method::GET, "/v2/team/app/tags/list");
        request.basic_auth(user, Some(password)).send()
    };
    for _ in 0..3 {
        let found = basic(&guarded, "bob", PASSWORD).await.unwrap();
        assert_eq!(found.status(), StatusCode::NOT_FOUND);
    }
    let wrong = basic(&guarded, "bob", "wrong").await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);

    let tokens_only = Guarded::start(|config| config.auth.basic = false).await;
    let refused = basic(&tokens_only, "bob", PASSWORD).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers().get_all(WWW_AUTHENTICATE).iter().count(), 1);
    tokens_only.token("bob", "repository:team/app:pull").await;
}

#[tokio::test]
async fn clients_of_oauth_ask_by_form() {
    let guarded = Guarded::start(|_| {}).await;
    let post = |form: &str| {
        let request = guarded.registry.request(Method::POST, "/token");
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(form.to_owned()).send()
    };
    let good = format!(
        "grant_type=password&username=alice&password={PASSWORD}&client_id=c\
         &service=longshore-registry&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
    );
    let answer: Value = post(&good).await.unwrap().json().await.unwrap();
    guarded.push(answer["access_token"].as_str().unwrap(), "team/app").await;
    for bad in [
        "grant_type=password&username=alice&password=x",
        "grant_type=other",
        "grant_type=refresh_token",
    ] {
        assert_eq!(post(bad).await.unwrap().status(), StatusCode::UNAUTHORIZED, "{bad}");
    }
    let huge = format!("grant_type=password&scope={}", "a".repeat(70_000));
    assert_eq!(post(&huge).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let scopes = "&scope=repository:a:pull".repeat(65);
    let many = guarded.ask("alice", PASSWORD, &scopes).await;
    assert_eq!(many.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn credentials_that_mean_nothing_are_refused_within_bounds() {
    let guarded = Guarded::start(|_| {}).await;
    let long = format!("Bearer {}", "a".repeat(20_000));
    let none = format!(
        "Bearer {}.{}.",
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJzdWIiOiJ1c2VyOmFsaWNlIn0"
    );
    for value in ["Bearer", "Bearer x.y.z", "Basic %%%", "Basic YQ==", "Negotiate x", &long, &none]
    {
        for path in ["/v2/", "/v2/public/app/tags/list", "/token"] {
            let request = guarded.registry.request(Method::GET, path);
            let refused = request.header(AUTHORIZATION, value).send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path} {value:.20}");
        }
    }
}

#[tokio::test]
async fn a_user_who_is_taken_out_loses_tokens_too() {
    let guarded = Guarded::start(|_| {}).await;
    let token = guarded.token("bob", "repository:team/app:pull").await;
    assert_eq!(guarded.status(&token, Method::GET, "/v2/").await, 200);
    users::remove(&guarded.users_file, "bob").unwrap();
    // The file is looked at again within a second of the next login.
    while guarded.ask("bob", PASSWORD, "").await.status() == StatusCode::OK {
        tokio::task::yield_now().await;
    }
    assert_eq!(guarded.status(&token, Method::GET, "/v2/").await, 401);
}

#[tokio::test]
async fn a_signing_key_is_replaced_while_tokens_are_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["first", "second"].map(|name| directory.path().join(name));
    let write = |secrets: [char; 2]| {
        for (file, secret) in files.iter().zip(secrets) {
            std::fs::write(file, secret.to_string().repeat(40)).unwrap();
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        }
    };
    write(['a', 'b']);
    let guarded = Guarded::start(|config| config.auth.token_keys = files.to_vec()).await;
    let scope = "repository:team/app:pull";
    let by_a = guarded.token("alice", scope).await;
    let kid = |token: &str| token.split('.').next().unwrap().to_owned();
    // The new one signs from now on, and the old one still counts.
    write(['b', 'a']);
    guarded.registry.reload.now();
    let mut by_b = guarded.token("alice", scope).await;
    while kid(&by_b) == kid(&by_a) {
        by_b = guarded.token("alice", scope).await;
    }
    for token in [&by_a, &by_b] {
        assert_eq!(guarded.status(token, Method::GET, "/v2/").await, 200);
    }
    // The old one is taken out.
    write(['b', 'c']);
    guarded.registry.reload.now();
    while guarded.status(&by_a, Method::GET, "/v2/").await != 401 {
        tokio::task::yield_now().await;
    }
    assert_eq!(guarded.status(&by_b, Method::GET, "/v2/").await, 200);
}

#[tokio::test]
async fn without_users_nobody_is_asked() {
    let registry = TestRegistry::start().await;
    assert_eq!(registry.get("/v2/").await.status(), StatusCode::OK);
    assert_eq!(registry.get("/token").await.status(), StatusCode::NOT_FOUND);
    let pushed = registry.request(Method::POST, "/v2/a/blobs/uploads/");
    // What a client has for some other registry.
    let pushed = pushed.basic_auth("alice", Some("x")).send().await.unwrap();
    assert_eq!(pushed.status(), StatusCode::ACCEPTED);
}
