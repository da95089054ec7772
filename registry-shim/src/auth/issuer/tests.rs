//! Issuers behind their own door: whose tokens are taken, and whose are not.

use jsonwebtoken::{EncodingKey, Header};
use longshore_proto::sign::SigningKey;
use serde_json::json;

use super::*;
use crate::config::auth::ClaimGroup;

const NOW_MS: u64 = 1_000_000;

struct Lab {
    directory: tempfile::TempDir,
    key: EncodingKey,
    issuers: Issuers,
}

fn config(directory: &tempfile::TempDir) -> IssuerConfig {
    IssuerConfig {
        name: "ci".to_owned(),
        issuer: "https://ci.example".to_owned(),
        audience: vec!["registry".to_owned()],
        jwks_url: None,
        jwks_file: Some(directory.path().join("jwks.json")),
        ca_file: None,
        algorithms: vec!["EdDSA".to_owned()],
        group: vec![ClaimGroup {
            name: "team".to_owned(),
            claims: [("repository".to_owned(), "team/*".to_owned())].into(),
        }],
    }
}

/// A key, and the set that holds its public half under `kid`.
fn key(kid: &str) -> (EncodingKey, String) {
    let (key, pem) = SigningKey::generate();
    use base64::Engine as _;
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.public().as_bytes());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid}]});
    (EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(), set.to_string())
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (key, set) = key("one");
        std::fs::write(directory.path().join("jwks.json"), set).unwrap();
        let issuers = Issuers::new(&[config(&directory)], &AuthMetrics::default()).unwrap();
        Self { directory, key, issuers }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as("one", claims)
    }

    fn sign_as(&self, kid: &str, claims: &Value) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    async fn verify(&self, token: &str) -> Result<Vec<String>, AuthError> {
        self.issuers.verify(token, NOW_MS).await.map(|named| named.subjects)
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://ci.example", "aud": "registry", "sub": "job-1", "exp": 1100,
        "nbf": 1000, "repository": "team/app",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn a_token_makes_its_bearer_a_member_of_the_groups_that_fit() {
    let lab = Lab::new();
    let named = lab.issuers.verify(&lab.sign(&claims()), NOW_MS).await.unwrap();
    assert_eq!(named.subjects, ["jwt:ci:job-1", "group:team"]);
    assert_eq!(named.expires_at_s, 1100);
    let other = lab.sign(&with("repository", json!("other/app")));
    assert_eq!(lab.verify(&other).await.unwrap(), ["jwt:ci:job-1"]);
    let one_of_many = lab.sign(&with("aud", json!(["else", "registry"])));
    assert!(lab.verify(&one_of_many).await.is_ok());
}

#[tokio::test]
async fn what_is_not_for_us_or_not_now_is_refused() {
    let lab = Lab::new();
    for wrong in [
        with("iss", json!("https://other.example")),
        with("aud", json!("other")),
        with("exp", json!(1000)),
        with("exp", json!("soon")),
        with("nbf", json!(1061)),
        with("sub", json!("")),
        with("sub", json!("two words")),
        with("sub", json!("a".repeat(SUBJECT_CHARS_MAX + 1))),
        without("iss"),
        without("aud"),
        without("exp"),
        without("sub"),
    ] {
        let refused = lab.verify(&lab.sign(&wrong)).await;
        assert_eq!(refused, Err(AuthError::Unauthorized), "{wrong}");
    }
    assert!(lab.verify(&lab.sign(&without("nbf"))).await.is_ok());
}

#[tokio::test]
async fn another_key_or_algorithm_is_refused() {
    let lab = Lab::new();
    let unknown = lab.verify(&lab.sign_as("two", &claims())).await;
    assert_eq!(unknown, Err(AuthError::Unauthorized));
    let (other, _) = key("one");
    let header = || Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::EdDSA) };
    let forged = jsonwebtoken::encode(&header(), &claims(), &other).unwrap();
    assert_eq!(lab.verify(&forged).await, Err(AuthError::Unauthorized));
    // The public key as the secret of a symmetric algorithm.
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(b"public");
    let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    assert_eq!(lab.verify(&confused).await, Err(AuthError::Unauthorized));
    let token = lab.sign(&claims());
    let (_, rest) = token.split_once('.').unwrap();
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoib25lIn0.{rest}");
    assert_eq!(lab.verify(&none).await, Err(AuthError::Unauthorized));
    let critical = Header {
        kid: Some("one".to_owned()),
        crit: Some(vec!["exp".to_owned()]),
        ..Header::new(Algorithm::EdDSA)
    };
    let critical = jsonwebtoken::encode(&critical, &claims(), &lab.key).unwrap();
    assert_eq!(lab.verify(&critical).await, Err(AuthError::Unauthorized));
}

#[tokio::test]
async fn a_rotated_key_is_found_when_a_token_names_it() {
    let mut lab = Lab::new();
    assert!(lab.verify(&lab.sign(&claims())).await.is_ok());
    let old = lab.sign(&claims());
    let (new, set) = key("two");
    std::fs::write(lab.directory.path().join("jwks.json"), set).unwrap();
    lab.key = new;
    let token = lab.sign_as("two", &claims());
    // Not at once: a file is looked at once a second at most.
    assert_eq!(lab.verify(&token).await, Err(AuthError::Unauthorized));
    assert!(lab.issuers.verify(&token, NOW_MS + 1000).await.is_ok());
    let withdrawn = lab.issuers.verify(&old, NOW_MS + 1000).await;
    assert_eq!(withdrawn, Err(AuthError::Unauthorized));
}

#[test]
fn an_issuer_that_could_be_anybody_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("jwks.json"), key("one").1).unwrap();
    let error = |change: &dyn Fn(&mut IssuerConfig)| {
        let mut wrong = config(&directory);
        change(&mut wrong);
        Issuers::new(&[wrong], &AuthMetrics::default()).unwrap_err().to_string()
    };
    assert_eq!(error(&|c| c.audience.clear()), "ci: audience is empty");
    assert!(
        error(&|c| c.algorithms = vec!["HS256".into()]).contains("no algorithm of public keys")
    );
    assert!(error(&|c| c.algorithms = vec!["none".into()]).contains("no algorithm of public keys"));
    assert!(error(&|c| c.jwks_file = None).contains("one of jwks_url and jwks_file"));
    assert!(error(&|c| c.jwks_file = Some("/nonexistent".into())).contains("jwks_file: "));
    let url = |c: &mut IssuerConfig| {
        c.jwks_file = None;
        c.jwks_url = Some("http://ci.example/jwks".into());
    };
    assert!(error(&url).contains("jwks_url is not https"));
    assert!(error(&|c| c.group[0].claims.clear()).contains("group team names no claim"));
    let twice = Issuers::new(&[config(&directory), config(&directory)], &AuthMetrics::default());
    assert!(matches!(twice, Err(IssuerError::Twice(_))));
}
