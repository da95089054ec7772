//! Whatever comes in at the door: methods, targets, headers and bodies made by dice, half of them
//! nearly right. With a store that is well no answer is a fault of the server's, none keeps its
//! client waiting, every refusal has the specification's shape, and afterwards all is as before.
//!
//! The dice begin at the same place in every run; what fails is made smaller and printed.

use std::fmt::Write as _;
use std::time::Duration;

use longshore_registry::auth::users;
use longshore_registry::config::Config;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::common::{TestRegistry, header, sha256};

/// No answer to any of this takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is pushed before the dice are thrown.
const LAYER: &[u8] = b"a layer";

/// What a request says of its body's length.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// The truth.
    Right,
    /// Nothing: the body is no part of the request.
    Silent,
    /// In chunks.
    Chunked,
    /// Less than there is.
    Less,
    /// More than will come.
    More,
}

#[derive(Clone, Debug)]
struct Thrown {
    method: String,
    target: String,
    headers: Vec<(&'static str, String)>,
    length: Length,
    body: Vec<u8>,
}

/// An answer that came whole.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

#[test]
fn whatever_comes_in_is_answered_and_never_with_a_fault() {
    thrown_at(4000, None, |_| {});
}

#[test]
fn whatever_comes_in_is_answered_where_everybody_is_asked_who_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    users::put(&file, "alice", "correct-horse").unwrap();
    let alice = "Basic YWxpY2U6Y29ycmVjdC1ob3JzZQ==";
    thrown_at(1500, Some(alice), move |config| config.auth.users_file = Some(file));
}

/// `known` is a credential that most requests show.
fn thrown_at(cases: u32, known: Option<&'static str>, change: impl FnOnce(&mut Config)) {
    let runtime = Runtime::new().unwrap();
    let registry = runtime.block_on(TestRegistry::start_with(|config| {
        config.storage.url = "memory:".parse().unwrap();
        change(config);
    }));
    let upload = runtime.block_on(begin(&registry));
    let cases = Cases { cases, failure_persistence: None, ..Cases::default() };
    let dice = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(cases, dice)
        .run(&thrown(upload, known), |thrown| {
            let answered = runtime.block_on(send(&registry, &thrown));
            judge(&thrown, answered.map_err(TestCaseError::fail)?)
        })
        .unwrap_or_else(|failed| panic!("{failed}"));
    runtime.block_on(async {
        let base = registry.request(reqwest::Method::GET, "/v2/");
        let base = base.basic_auth("alice", Some("correct-horse")).send().await.unwrap();
        assert_eq!(base.status(), 200);
        registry.stop().await;
    });
}

/// An image, as far as anybody may push it, and an upload under way.
async fn begin(registry: &TestRegistry) -> String {
    let as_alice = |method, path: &str| {
        registry.request(method, path).basic_auth("alice", Some("correct-horse"))
    };
    let path = format!("/v2/a/b/blobs/uploads/?digest={}", sha256(LAYER));
    let pushed = as_alice(reqwest::Method::POST, &path).body(LAYER).send().await.unwrap();
    assert_eq!(pushed.status(), 201);
    let begun = as_alice(reqwest::Method::POST, "/v2/a/b/blobs/uploads/").send().await.unwrap();
    header(&begun, "location")
}

fn thrown(upload: String, known: Option<&'static str>) -> impl Strategy<Value = Thrown> {
    let length = prop_oneof![
        6 => Just(Length::Right), 2 => Just(Length::Silent), 2 => Just(Length::Chunked),
        1 => Just(Length::Less), 1 => Just(Length::More),
    ];
    let headers = (vec(any_header(), 0..5), 0..4_u8).prop_map(move |(mut headers, nobody)| {
        if let (Some(known), 1..) = (known, nobody) {
            headers.retain(|(name, _)| *name != "Authorization");
            headers.push(("Authorization", known.to_owned()));
        }
        headers
    });
    let request = (method(), target(upload), headers, length, body());
    request.prop_map(|(method, target, headers, length, body)| Thrown {
        method,
        target,
        headers,
        length,
        body,
    })
}

fn method() -> impl Strategy<Value = String> {
    let known = select(&["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"][..]);
    prop_oneof![
        12 => known.prop_map(str::to_owned),
        1 => select(&["OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"][..]).prop_map(str::to_owned),
        1 => "[A-Z!#$%&'*+.^_`|~-]{1,20}",
    ]
}

fn target(upload: String) -> impl Strategy<Value = String> {
    let path = prop_oneof![
        3 => (name(), reference()).prop_map(|(name, at)| format!("/v2/{name}/manifests/{at}")),
        3 => (name(), reference()).prop_map(|(name, at)| format!("/v2/{name}/blobs/{at}")),
        2 => (name(), reference()).prop_map(|(name, at)| format!("/v2/{name}/referrers/{at}")),
        2 => name().prop_map(|name| format!("/v2/{name}/tags/list")),
        3 => name().prop_map(|name| format!("/v2/{name}/blobs/uploads/")),
        2 => (name(), "[0-9a-fA-F-]{0,40}")
            .prop_map(|(name, id)| format!("/v2/{name}/blobs/uploads/{id}")),
        3 => Just(upload),
        2 => select(&["/v2/", "/v2", "/v2/_catalog", "/token", "/", "*", "/livez"][..])
            .prop_map(str::to_owned),
        2 => "/[a-zA-Z0-9._~:/@!$&'()*+,;=%-]{0,80}",
        1 => "(/[a-z0-9%.]{0,9}){1,40}",
        // No URI at all, most of them.
        1 => "/?[!-~]{1,30}",
    ];
    (path, vec(parameter(), 0..4)).prop_map(|(path, query)| {
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{path}{separator}{}", query.join("&"))
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => Just("a/b".to_owned()),
        2 => "[a-z0-9]{1,5}([._-]{1,2}[a-z0-9]{1,3})?(/[a-z0-9]{1,4}){0,3}",
        1 => "[a-zA-Z0-9._/-]{0,30}",
        1 => select(&["..", "../../etc", "a%2Fb", "a//b", "%00", "%", "%zz", "tags/list"][..])
            .prop_map(str::to_owned),
        1 => "[a-z]{200,300}",
    ]
}

fn reference() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(sha256(LAYER).to_string()),
        2 => "sha256:[0-9a-f]{64}",
        1 => "sha512:[0-9a-f]{128}",
        2 => "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        1 => "[a-z0-9+.]{0,8}:[0-9a-zA-Z]{0,70}",
        1 => "[a-zA-Z0-9._~:@!$&'()*+,;=%-]{0,140}",
        1 => "(%[0-9a-fA-F]{2}){1,20}",
    ]
}

fn parameter() -> impl Strategy<Value = String> {
    let key = select(
        &[
            "n",
            "last",
            "mount",
            "from",
            "digest",
            "digest-algorithm",
            "artifactType",
            "ns",
            "tag",
            "permit",
            "scope",
            "service",
            "account",
            "x",
        ][..],
    );
    let value = prop_oneof![
        3 => reference(),
        2 => name(),
        2 => "[0-9]{0,25}",
        1 => "[a-zA-Z0-9._~:/@!$'()*+,;=%?-]{0,60}",
        1 => Just("repository:a/b:pull,push".to_owned()),
    ];
    (key, value, 0..10_u8).prop_map(|(key, value, bare)| match bare {
        0 => key.to_owned(),
        _ => format!("{key}={value}"),
    })
}

fn any_header() -> impl Strategy<Value = (&'static str, String)> {
    let of = |name: &'static str, value: BoxedStrategy<String>| value.prop_map(move |v| (name, v));
    let text = || "[ -~]{0,40}".boxed();
    let number = "(0|[0-9]{1,3}|[0-9]{18,22})?";
    let range = prop_oneof![
        4 => (number, number).prop_map(|(from, to)| format!("bytes={from}-{to}")),
        1 => vec((number, number), 1..30).prop_map(|parts| {
            let part = |(from, to): (String, String)| format!("{from}-{to}");
            format!("bytes={}", parts.into_iter().map(part).collect::<Vec<_>>().join(","))
        }),
        1 => text(),
    ];
    let content_range = prop_oneof![
        4 => (number, number).prop_map(|(from, to)| format!("{from}-{to}")),
        1 => (number, number, number).prop_map(|(from, to, all)| format!("bytes {from}-{to}/{all}")),
        1 => text(),
    ];
    let credential = prop_oneof![
        Just("Basic YWxpY2U6Y29ycmVjdC1ob3JzZQ==".to_owned()),
        "Basic [A-Za-z0-9+/=]{0,40}",
        "Bearer [A-Za-z0-9._-]{0,80}",
        "Bearer [A-Za-z0-9_-]{1,20}\\.[A-Za-z0-9_-]{1,20}\\.[A-Za-z0-9_-]{1,20}",
        text(),
    ];
    let media_type = prop_oneof![
        Just("application/vnd.oci.image.manifest.v1+json".to_owned()),
        Just("application/vnd.oci.image.index.v1+json; charset=utf-8".to_owned()),
        Just("application/x-www-form-urlencoded".to_owned()),
        text(),
    ];
    let etag = format!("\"{}\"", sha256(LAYER));
    prop_oneof![
        of("Range", range.boxed()),
        of("Content-Range", content_range.boxed()),
        of("Authorization", credential.boxed()),
        of("Content-Type", media_type.boxed()),
        of("Accept", "[a-z/+*;,=.0-9 ]{0,80}".boxed()),
        of("If-None-Match", prop_oneof![Just(etag.clone()), text()].boxed()),
        of("If-Range", prop_oneof![Just(etag), text()].boxed()),
        of("X-Forwarded-For", "[0-9a-f:., ]{0,40}".boxed()),
        of("X-Request-Id", text()),
        of("Traceparent", "[0-9a-f-]{0,60}".boxed()),
        of("Host", "[a-z0-9.:\\[\\]-]{0,300}".boxed()),
        of("Docker-Upload-UUID", text()),
        of("X-Long", "[a-z]{2000,6000}".boxed()),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let descriptor =
        r#"\{"mediaType":"[a-z/]{0,9}","digest":"[a-z0-9:]{0,75}","size":-?[0-9]{1,21}\}"#;
    prop_oneof![
        3 => Just(Vec::new()),
        2 => Just(LAYER.to_vec()),
        2 => vec(any::<u8>(), 0..2000),
        2 => (descriptor, descriptor).prop_map(|(config, layer)| {
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#).into_bytes()
        }),
        1 => r#"[\{\}\[\]":,a-z0-9. -]{0,200}"#.prop_map(String::into_bytes),
        // Deeper than any parser's stack.
        1 => (1..50_000_usize).prop_map(|deep| vec![b'['; deep]),
    ]
}

/// The answer; `None` where the request never became whole, so that none is owed.
async fn send(registry: &TestRegistry, thrown: &Thrown) -> Result<Option<Got>, String> {
    let exchange = async {
        let mut connection = TcpStream::connect(registry.address).await.unwrap();
        // It may be refused before it is sent whole.
        let _ = connection.write_all(&thrown.bytes()).await;
        if let Length::More = thrown.length {
            return None;
        }
        let mut answer = Vec::new();
        let read = connection.read_to_end(&mut answer).await;
        Some((answer, read.err()))
    };
    let exchanged = tokio::time::timeout(PATIENCE, exchange).await;
    let Some((answer, broken)) = exchanged.map_err(|_| "no answer in time")? else {
        return Ok(None);
    };
    // What is unread when the connection ends resets it, behind the answer.
    match broken {
        Some(broken) if answer.is_empty() => Err(format!("no answer: {broken}")),
        _ => Got::parse(&answer).map(Some),
    }
}

impl Thrown {
    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !self.headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str("Host: registry\r\n");
        }
        let length = match self.length {
            Length::Right => self.body.len(),
            Length::Less => self.body.len() / 2,
            Length::More => self.body.len() + 10,
            Length::Silent => return (head + "\r\n").into_bytes(),
            Length::Chunked => {
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
                let chunk = format!("{:x}\r\n", self.body.len());
                let mut bytes = head.into_bytes();
                if !self.body.is_empty() {
                    bytes.extend([chunk.as_bytes(), &self.body, b"\r\n"].concat());
                }
                bytes.extend(b"0\r\n\r\n");
                return bytes;
            }
        };
        let _ = write!(head, "Content-Length: {length}\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

impl Got {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end =
            end.ok_or_else(|| format!("no answer but {:?}", bytes.escape_ascii().to_string()))?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {head}"))?;
        Ok(Self { status, head, body: bytes[end + 4..].to_vec() })
    }

    fn says(&self, text: &str) -> bool {
        self.head.contains(text)
    }
}

fn judge(thrown: &Thrown, got: Option<Got>) -> Result<(), TestCaseError> {
    let Some(got) = got else { return Ok(()) };
    prop_assert!((200..500).contains(&got.status), "{got:?}");
    // What is no HTTP does not reach the registry.
    if !got.says("\r\nx-request-id: ") {
        prop_assert!(matches!(got.status, 400 | 414 | 431) && got.body.is_empty(), "{got:?}");
        return Ok(());
    }
    prop_assert!(got.says("docker-distribution-api-version: registry/2.0"), "{got:?}");
    if got.status < 400 || thrown.method == "HEAD" {
        return Ok(());
    }
    prop_assert!(got.says("\r\ncontent-type: application/json"), "{got:?}");
    let body: serde_json::Value = serde_json::from_slice(&got.body)
        .map_err(|error| TestCaseError::fail(format!("{error}: {got:?}")))?;
    let errors = body["errors"].as_array().filter(|errors| !errors.is_empty());
    let errors = errors.ok_or_else(|| TestCaseError::fail(format!("no errors: {got:?}")))?;
    for error in errors {
        let code = error["code"].as_str().unwrap_or_default();
        let is_code = |code: &str| code.bytes().all(|c| c.is_ascii_uppercase() || c == b'_');
        prop_assert!(!code.is_empty() && is_code(code), "{got:?}");
        prop_assert!(error["message"].is_string(), "{got:?}");
    }
    Ok(())
}
