//! What the registry takes on at once, what one client may ask for, and what a request is called.

use longshore_registry::config::limits::Limits;
use reqwest::{Client, Method, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{TestRegistry, content, header, refusal, refused, until};
use crate::fleet::session;

async fn limited(limits: Limits) -> TestRegistry {
    TestRegistry::start_with(|config| config.limits = limits).await
}

/// A pull that is under way for as long as nobody reads it: the blob fits no socket's buffers.
async fn pull(registry: &TestRegistry) -> TcpStream {
    let digest = registry.push_blob("apps/web", &content(32 << 20, 1)).await;
    let mut stream = TcpStream::connect(registry.address).await.unwrap();
    let get = format!("GET /v2/apps/web/blobs/{digest} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 15]).await.unwrap();
    stream
}

async fn turned_away(answer: Response) {
    let seconds: u32 = header(&answer, "retry-after").parse().unwrap();
    assert!((1..=5).contains(&seconds), "{seconds}");
    assert!(!header(&answer, "x-request-id").is_empty());
    assert_eq!(refusal(answer).await, refused(503, "UNAVAILABLE"));
}

#[tokio::test]
async fn reads_over_the_limit_are_turned_away_at_once_and_writes_are_not() {
    let registry = limited(Limits { reads_in_flight_max: 1, ..Limits::default() }).await;
    let stream = pull(&registry).await;
    turned_away(registry.get("/v2/").await).await;
    registry.begin_upload("apps/web").await;
    assert_eq!(registry.metric("longshore_registry_requests_shed_total").await, 1);
    drop(stream);
    until("room", async || registry.get("/v2/").await.status() == StatusCode::OK).await;
    until("nothing", async || registry.metric("longshore_registry_blob_streams").await == 0).await;
}

#[tokio::test]
async fn streams_over_the_limit_are_turned_away_and_small_answers_are_not() {
    let registry = limited(Limits { blob_streams_max: 1, ..Limits::default() }).await;
    let small = registry.push_blob("apps/web", b"small").await;
    let _stream = pull(&registry).await;
    let blob = format!("/v2/apps/web/blobs/{small}");
    turned_away(registry.get(&blob).await).await;
    assert_eq!(registry.head(&blob).await.status(), StatusCode::OK);
    assert_eq!(registry.get("/v2/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn pushes_that_would_hold_too_much_are_turned_away() {
    let registry = limited(Limits { buffered_bytes_max: 15 << 20, ..Limits::default() }).await;
    let location = registry.begin_upload("apps/web").await;
    let mut push = TcpStream::connect(registry.address).await.unwrap();
    let patch = format!("PATCH {location} HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999\r\n\r\n");
    push.write_all(patch.as_bytes()).await.unwrap();
    let held = "longshore_registry_buffered_bytes";
    until("the push", async || registry.metric(held).await == 15 << 20).await;
    let second = registry.begin_upload("apps/web").await;
    let answer = registry.request(Method::PATCH, &second).body("more").send().await.unwrap();
    turned_away(answer).await;
    drop(push);
    until("room", async || registry.metric(held).await == 0).await;
    let answer = registry.request(Method::PATCH, &second).body("more").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_client_over_its_rate_gets_429_and_others_do_not() {
    let registry = limited(Limits {
        client_requests_per_s: 1,
        client_burst: 2,
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Limits::default()
    })
    .await;
    let from = async |client: &str| {
        registry
            .request(Method::GET, "/v2/")
            .header("x-forwarded-for", client)
            .send()
            .await
            .unwrap()
    };
    for status in [StatusCode::OK, StatusCode::OK] {
        assert_eq!(from("192.0.2.1").await.status(), status);
    }
    let answer = from("192.0.2.1").await;
    assert_eq!(header(&answer, "retry-after"), "1");
    assert_eq!(refusal(answer).await, refused(429, "TOOMANYREQUESTS"));
    assert_eq!(from("192.0.2.2").await.status(), StatusCode::OK);
    assert_eq!(registry.metric("longshore_registry_requests_throttled_total").await, 1);
}

#[tokio::test]
async fn a_request_keeps_its_clients_name_or_gets_one() {
    let registry = TestRegistry::start().await;
    let named = |name: &str| registry.request(Method::GET, "/v2/").header("x-request-id", name);
    let given = named("build-7.step/3").send().await.unwrap();
    assert_eq!(header(&given, "x-request-id"), "build-7.step/3");
    let long = named(&"x".repeat(500)).send().await.unwrap();
    assert_eq!(header(&long, "x-request-id").len(), 16);
    let (first, second) = (registry.get("/v2/").await, registry.get("/nowhere").await);
    assert_ne!(header(&first, "x-request-id"), header(&second, "x-request-id"));

    let call = format!("http://{}/longshore.origin.v1.Membership/Join", registry.address);
    let http2 = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = http2.post(call).header("content-type", "application/grpc").body(vec![0; 5]);
    let answer = call.header("x-request-id", "join-1").send().await.unwrap();
    assert_eq!(header(&answer, "x-request-id"), "join-1");
}

/// 1 MiB a second, and nothing else.
fn paced() -> Limits {
    Limits { client_bytes_per_s: 1 << 20, ..Limits::default() }
}

#[tokio::test]
async fn a_client_over_its_bytes_waits_for_the_rest_and_a_node_does_not() {
    let registry = limited(paced()).await;
    let pauses = "longshore_registry_body_pauses_total";
    let layer = content(3 << 19, 7);
    let began = std::time::Instant::now();
    let digest = registry.push_blob("apps/web", &layer).await;
    assert!(registry.metric(pauses).await > 0, "a push of one and a half seconds");
    let pushed = registry.metric(pauses).await;
    let path = format!("/v2/apps/web/blobs/{digest}");
    let pulled = registry.get(&path).await.bytes().await.unwrap();
    assert!(pulled == layer);
    // Pushed and pulled it is 3 MiB, of which a second's worth may have been saved.
    assert!(began.elapsed() >= std::time::Duration::from_millis(1900), "{:?}", began.elapsed());
    let paused = registry.metric(pauses).await;
    assert!(paused > pushed, "a pull pauses as well");

    let session = session(&registry).await;
    let asked = registry.request(Method::GET, &path).bearer_auth(&session).send().await.unwrap();
    assert!(asked.bytes().await.unwrap() == layer);
    assert_eq!(registry.metric(pauses).await, paused, "nodes are exempt");
}

#[tokio::test]
async fn nodes_are_no_clients_of_the_request_limit_unless_configured() {
    for throttle_nodes in [false, true] {
        let limits = Limits {
            client_requests_per_s: 1,
            client_burst: 2,
            throttle_nodes,
            ..Limits::default()
        };
        let registry = limited(limits).await;
        let session = session(&registry).await;
        let mut throttled = 0;
        for _ in 0..5 {
            let asked = registry.request(Method::GET, "/v2/").bearer_auth(&session);
            throttled += usize::from(asked.send().await.unwrap().status() == 429);
        }
        assert_eq!(throttled > 0, throttle_nodes, "{throttled} of 5");
        // Whoever is no node is one.
        let anonymous = async || registry.get("/v2/").await.status() == 429;
        until("429", anonymous).await;
    }
}
