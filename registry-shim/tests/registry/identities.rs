//! Whom others vouch for: identity providers' tokens, client certificates, nodes; and the trail that
//! everybody leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode as AxumStatus;
use axum::routing::get;
use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::SigningKey;
use longshore_registry::auth::users;
use longshore_registry::config::JoinIdentity;
use longshore_registry::config::auth::{ClaimGroup, Issuer, Rule, RuleAction};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::common::{TestRegistry, refusal, refused, sha256};
use crate::fleet::{join, join_request};

/// An identity provider whose keys are fetched over HTTP.
struct Provider {
    url: String,
    key: EncodingKey,
    asked: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Served {
    set: Arc<std::sync::Mutex<String>>,
    asked: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

async fn serve_keys(State(served): State<Served>) -> Result<String, AxumStatus> {
    served.asked.fetch_add(1, Ordering::SeqCst);
    if served.is_down.load(Ordering::SeqCst) {
        return Err(AxumStatus::INTERNAL_SERVER_ERROR);
    }
    Ok(served.set.lock().unwrap().clone())
}

impl Provider {
    async fn start() -> Self {
        let (key, pem) = SigningKey::generate();
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.public().as_bytes());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one"}]});
        let served = Served {
            set: Arc::new(std::sync::Mutex::new(set.to_string())),
            asked: Arc::default(),
            is_down: Arc::default(),
        };
        let (asked, is_down) = (served.asked.clone(), served.is_down.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/jwks", get(serve_keys)).with_state(served);
        let serving = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        let key = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
        Self { url, key, asked, is_down, serving }
    }

    fn issuer(&self) -> Issuer {
        Issuer {
            name: "ci".to_owned(),
            issuer: "https://ci.example".to_owned(),
            audience: vec!["registry".to_owned()],
            jwks_url: Some(self.url.clone()),
            jwks_file: None,
            ca_file: None,
            algorithms: vec!["EdDSA".to_owned()],
            group: vec![ClaimGroup {
                name: "team".to_owned(),
                claims: [("repository".to_owned(), "team/*".to_owned())].into(),
            }],
        }
    }

    fn token(&self, kid: &str, repository: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "iss": "https://ci.example", "aud": "registry", "sub": "job-1", "exp": now + 300,
            "repository": repository,
        });
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn rule(subject: &str, repository: &str, actions: &[RuleAction]) -> Rule {
    Rule {
        subjects: vec![subject.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: actions.to_vec(),
    }
}

async fn registry_of(provider: &Provider) -> TestRegistry {
    TestRegistry::start_with(|config| {
        config.auth.issuer = vec![provider.issuer()];
        let both = [RuleAction::Pull, RuleAction::Push];
        config.auth.rule = vec![rule("group:team", "team/*", &both)];
    })
    .await
}

async fn begin(registry: &TestRegistry, token: &str, repository: &str) -> reqwest::Response {
    let path = format!("/v2/{repository}/blobs/uploads/");
    registry.request(Method::POST, &path).bearer_auth(token).send().await.unwrap()
}

#[tokio::test]
async fn a_job_pushes_what_its_claims_allow_and_its_issuer_is_asked_once() {
    let provider = Provider::start().await;
    let registry = registry_of(&provider).await;
    let token = provider.token("one", "team/app");
    let other = provider.token("one", "elsewhere/app");
    let all = (0..20).map(|_| begin(&registry, &token, "team/app"));
    for answer in futures::future::join_all(all).await {
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
    assert_eq!(begin(&registry, &token, "other/app").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(begin(&registry, &other, "team/app").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(provider.asked(), 1);

    // As a password, for clients that know nothing else, and as a refresh token.
    let scope = "scope=repository:team/app:pull,push";
    let request = registry.request(Method::GET, &format!("/token?{scope}"));
    let answer = request.basic_auth("anything", Some(&token)).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let own = answer["token"].as_str().unwrap();
    assert_eq!(begin(&registry, own, "team/app").await.status(), StatusCode::ACCEPTED);
    let form = format!("grant_type=refresh_token&refresh_token={token}&{scope}");
    let request = registry.request(Method::POST, "/token").body(form);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    // Our own is no password: it would never end.
    let request = registry.request(Method::GET, "/token").basic_auth("x", Some(own));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let request = registry.request(Method::GET, "/token").bearer_auth(own);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn tokens_that_name_unknown_keys_do_not_make_us_ask_and_ask() {
    let provider = Provider::start().await;
    let registry = registry_of(&provider).await;
    for at in 0..20 {
        let unknown = provider.token(&format!("kid-{at}"), "team/app");
        let refused = begin(&registry, &unknown, "team/app").await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_down_is_no_reason_to_call_a_token_wrong() {
    let provider = Provider::start().await;
    provider.is_down.store(true, Ordering::SeqCst);
    let registry = registry_of(&provider).await;
    let token = provider.token("one", "team/app");
    for _ in 0..3 {
        let answer = begin(&registry, &token, "team/app").await;
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(refusal(answer).await, refused(503, "UNAVAILABLE"));
    }
    assert_eq!(provider.asked(), 1);

    // Who has keys goes on without it.
    let provider = Provider::start().await;
    let registry = registry_of(&provider).await;
    let first = provider.token("one", "team/app");
    assert_eq!(begin(&registry, &first, "team/app").await.status(), StatusCode::ACCEPTED);
    provider.is_down.store(true, Ordering::SeqCst);
    let another = provider.token("one", "team/other");
    assert_eq!(begin(&registry, &another, "team/app").await.status(), StatusCode::ACCEPTED);
}

/// A client that shows a certificate of an authority, and the registry's own root.
fn certified_client(authority: &Authority, name: Option<rcgen::SanType>) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    let Some(name) = name else { return builder.build().unwrap() };
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![name];
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, authority).unwrap();
    let pem = format!("{}{}", leaf.pem(), key.serialize_pem());
    builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap()
}

type Authority = rcgen::CertifiedIssuer<'static, rcgen::KeyPair>;

fn authority() -> Authority {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertifiedIssuer::self_signed(params, key).unwrap()
}

#[tokio::test]
async fn a_client_certificate_names_its_bearer() {
    let (directory, ours, other) = (tempfile::tempdir().unwrap(), authority(), authority());
    let at = |name: &str| directory.path().join(name);
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(at("leaf"), params.signed_by(&key, &ours).unwrap().pem()).unwrap();
    std::fs::write(at("key"), key.serialize_pem()).unwrap();
    std::fs::write(at("ca"), ours.pem()).unwrap();
    let registry = TestRegistry::start_with(|config| {
        config.tls.certificate_file = Some(at("leaf"));
        config.tls.key_file = Some(at("key"));
        config.tls.client_ca_file = Some(at("ca"));
        let subject = "certificate:uri:spiffe://here/ci/*";
        config.auth.rule = vec![rule(subject, "team/*", &[RuleAction::Pull, RuleAction::Push])];
    })
    .await;
    let uri = |text: &str| Some(rcgen::SanType::URI(text.try_into().unwrap()));
    let ci = certified_client(&ours, uri("spiffe://here/ci/job"));
    let stranger = certified_client(&ours, uri("spiffe://here/other"));
    let nobody = certified_client(&ours, None);
    for (client, repository, status) in [
        (&ci, "team/app", 202),
        (&ci, "team/app", 202),
        (&ci, "other/app", 403),
        (&stranger, "team/app", 403),
        (&nobody, "team/app", 401),
    ] {
        let url = format!("https://{}/v2/{repository}/blobs/uploads/", registry.address);
        let answer = client.post(url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{repository}");
    }
    // It can be turned into a token, for what cannot show it.
    let scope = "scope=repository:team/app:pull";
    let url = format!("https://{}/token?{scope}", registry.address);
    assert_eq!(ci.get(&url).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(nobody.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    // Another authority's is nobody's: the connection does not come about.
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://here/ci/job").unwrap()];
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = params.signed_by(&key, &other).unwrap();
    let pem = format!("{}{}", forged.pem(), key.serialize_pem());
    let root = reqwest::Certificate::from_pem(ours.pem().as_bytes()).unwrap();
    let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    assert!(builder.identity(identity).build().unwrap().get(&url).send().await.is_err());
}

#[tokio::test]
async fn every_write_and_every_refused_one_leaves_a_trail_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let (users_file, audit_file) = (directory.path().join("users"), directory.path().join("audit"));
    let password = "never-to-be-written-down";
    users::put(&users_file, "alice", password).unwrap();
    let registry = TestRegistry::start_with(|config| {
        config.auth.users_file = Some(users_file.clone());
        config.auth.audit_file = Some(audit_file.clone());
        config.auth.rule = vec![rule("user:alice", "team/*", &[RuleAction::All])];
    })
    .await;
    let scope = "scope=repository:team/app:*&scope=repository:team/other:*";
    let ask = registry.request(Method::GET, &format!("/token?{scope}"));
    let answer = ask.basic_auth("alice", Some(password)).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let token = answer["token"].as_str().unwrap();
    let send = |method: Method, path: &str, body: &'static str| {
        let request = registry.request(method, path).bearer_auth(token);
        request.header("content-type", "application/vnd.oci.image.index.v1+json").body(body).send()
    };
    let blob = sha256(b"blob");
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let manifest = sha256(index.as_bytes());
    let manifests = "/v2/team/app/manifests";
    let mount = format!("/v2/team/other/blobs/uploads/?mount={blob}&from=team/app");
    let push = format!("/v2/team/app/blobs/uploads/?digest={blob}");
    for (method, path, body, status) in [
        (Method::POST, push.as_str(), "blob", 201),
        (Method::POST, &push.replace("team", "other"), "blob", 403),
        (Method::POST, &mount, "", 201),
        (Method::PUT, &format!("{manifests}/v1"), index, 201),
        (Method::PUT, &format!("{manifests}/v2"), "{", 400),
        (Method::GET, &format!("{manifests}/v1"), "", 200),
        (Method::DELETE, &format!("{manifests}/v1"), "", 202),
        (Method::DELETE, &format!("{manifests}/{manifest}"), "", 202),
        (Method::DELETE, &format!("/v2/team/app/blobs/{blob}"), "", 202),
        (Method::POST, "/v2/team/app/blobs/uploads/", "", 202),
    ] {
        let answer = send(method.clone(), path, body).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
    }
    let wrong = registry.request(Method::GET, "/token").basic_auth("alice", Some("guessed-wrong"));
    assert_eq!(wrong.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let token = token.to_owned();
    registry.stop().await;

    let text = std::fs::read_to_string(&audit_file).unwrap();
    for secret in [password, "guessed-wrong", &token, token.rsplit('.').next().unwrap()] {
        assert!(!text.contains(secret));
    }
    let entries: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<[&str; 5]> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry["client"], "127.0.0.1");
            assert_eq!(entry["request_id"].as_str().unwrap().len(), 16);
            ["actor", "action", "repository", "digest", "outcome"]
                .map(|name| entry[name].as_str().unwrap())
        })
        .collect();
    let (blob, manifest) = (blob.to_string(), manifest.to_string());
    let expected = [
        ["user:alice", "issue_token", "", "", "ok"],
        ["user:alice", "push_blob", "team/app", &blob, "ok"],
        ["user:alice", "push_blob", "other/app", "", "refused"],
        ["user:alice", "mount", "team/other", &blob, "ok"],
        ["user:alice", "push_manifest", "team/app", &manifest, "ok"],
        ["user:alice", "move_tag", "team/app", &manifest, "ok"],
        ["user:alice", "push_manifest", "team/app", "", "failed"],
        ["user:alice", "delete_tag", "team/app", "", "ok"],
        ["user:alice", "delete_manifest", "team/app", "", "ok"],
        ["user:alice", "delete_blob", "team/app", "", "ok"],
        ["unknown", "issue_token", "", "", "refused"],
    ];
    assert_eq!(found, expected);
    assert!(entries[0]["reference"].as_str().unwrap().len() == 32);
    assert_eq!(entries[4]["reference"], "v1");
}

async fn registry_for_nodes_of(provider: &Provider) -> TestRegistry {
    TestRegistry::start_with(|config| {
        config.auth.issuer = vec![provider.issuer()];
        let (subjects, pools) = (vec!["group:team".to_owned()], vec!["eu-*".to_owned()]);
        config.join.identity = vec![JoinIdentity { subjects, pools }];
    })
    .await
}

#[tokio::test]
async fn a_node_is_not_called_a_stranger_while_its_issuer_is_down() {
    let provider = Provider::start().await;
    provider.is_down.store(true, Ordering::SeqCst);
    let registry = registry_for_nodes_of(&provider).await;
    let token = provider.token("one", "team/app");
    let request = rpc::JoinRequest { pool: "eu-1".to_owned(), ..join_request(&token) };
    assert_eq!(join(&registry, request).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_platforms_token_lets_a_node_join_the_pools_of_its_identity() {
    let provider = Provider::start().await;
    let registry = registry_for_nodes_of(&provider).await;
    let joins = |token: String, pool: &str| {
        let request = rpc::JoinRequest { pool: pool.to_owned(), ..join_request(&token) };
        join(&registry, request)
    };
    let refused = async |token: String, pool: &str| joins(token, pool).await.unwrap_err().code();

    let joined = joins(provider.token("one", "team/app"), "eu-1").await.unwrap();
    assert_eq!(joined.pool, "eu-1");
    let answer = registry.request(Method::GET, "/v2/").bearer_auth(&joined.session).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::OK);

    assert_eq!(refused(provider.token("one", "team/app"), "us-1").await, Code::PermissionDenied);
    assert_eq!(refused(provider.token("one", "other/app"), "eu-1").await, Code::PermissionDenied);
    for nothing in [String::new(), "0123456789abcdef".to_owned(), "a.b.c".to_owned()] {
        assert_eq!(refused(nothing, "eu-1").await, Code::Unauthenticated);
    }
}
