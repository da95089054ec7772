//! Clients that stall, lie about lengths, or are cut off; and a registry that is told to end.
//!
//! Time is paused: it moves to the next deadline whenever nobody has anything to do.

use std::io::ErrorKind;

use longshore_registry::storage::StorageUrl;
use reqwest::header::{EXPECT, RANGE};
use reqwest::{Body, Client, Method, StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::{TestRegistry, content, header, sha256, until};

/// No deadline of the registry is longer.
const PATIENCE_S: u64 = 90;

/// In memory, so that no thread works while time moves.
async fn in_memory() -> TestRegistry {
    TestRegistry::start_with(|config| config.storage.url = StorageUrl::Memory).await
}

async fn connect(registry: &TestRegistry) -> TcpStream {
    TcpStream::connect(registry.address).await.unwrap()
}

/// Everything until the registry closes; whether it was in time.
async fn rest(stream: &mut TcpStream) -> (String, bool) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes).await {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    (String::from_utf8(bytes).unwrap(), began.elapsed().as_secs() <= PATIENCE_S)
}

/// Waits until the upload has so much: a broken request is saved behind its answer. Counted in
/// questions, for paused time would pass while an answer is under way.
async fn stands_at(registry: &TestRegistry, upload: &str, range: &str) {
    let mut seen = String::new();
    for _ in 0..1000 {
        seen = header(&registry.get(upload).await, RANGE.as_str());
        if seen == range {
            return;
        }
    }
    assert_eq!(seen, range);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up_and_what_came_of_it_is_kept() {
    let registry = in_memory().await;
    let upload = registry.begin_upload("a").await;
    let mut stream = connect(&registry).await;
    let head = format!("PATCH {upload} HTTP/1.1\r\nhost: r\r\ncontent-length: 100\r\n\r\nsome");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (answer, in_time) = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("body stalled") && in_time, "{answer}");
    stands_at(&registry, &upload, "0-3").await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_given_up() {
    let registry = in_memory().await;
    for half in ["", "GET /v2/ HTTP/1.1\r\nhost:"] {
        let mut stream = connect(&registry).await;
        stream.write_all(half.as_bytes()).await.unwrap();
        let (_, in_time) = rest(&mut stream).await;
        assert!(in_time, "after {half:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_off_goes_on_behind_what_came() {
    let registry = TestRegistry::start().await;
    let upload = registry.begin_upload("a").await;
    registry.request(Method::PATCH, &upload).body("12345").send().await.unwrap();
    let mut stream = connect(&registry).await;
    let head = format!("PATCH {upload} HTTP/1.1\r\nhost: r\r\ncontent-length: 100\r\n\r\nsome");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Half-closed, so that the answer shows when the registry has noticed.
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    let stands = async || header(&registry.get(&upload).await, RANGE.as_str()) == "0-8";
    until("what came is kept", stands).await;
    let digest = sha256(b"12345some");
    let put = registry.request(Method::PUT, &format!("{upload}?digest={digest}"));
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_client_that_asks_first_is_not_invited_in_vain() {
    let registry = TestRegistry::start().await;
    let mut stream = connect(&registry).await;
    let head = "PUT /v2/A/manifests/v1 HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\n\
                connection: close\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (answer, _) = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let digest = sha256(b"invited");
    let post = registry
        .request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={digest}"))
        .header(EXPECT, "100-continue");
    assert_eq!(post.body("invited").send().await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_push_in_flight_ends_well_while_the_registry_drains() {
    let registry = TestRegistry::start().await;
    let blob = content(200_000, 1);
    let digest = sha256(&blob);
    let (chunks, body) = mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let push = registry
        .request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={digest}"))
        .body(Body::wrap_stream(ReceiverStream::new(body)));
    let push = tokio::spawn(push.send());
    chunks.send(Ok(blob[..100_000].to_vec())).await.unwrap();
    // The first bytes have arrived: the request is in flight.
    while registry.metric("longshore_registry_received_bytes_total").await == 0 {
        tokio::task::yield_now().await;
    }
    registry.begin_shutdown();
    let ready = format!("http://{}/readyz", registry.admin);
    while registry.client.get(&ready).send().await.unwrap().status() == StatusCode::OK {
        tokio::task::yield_now().await;
    }
    chunks.send(Ok(blob[100_000..].to_vec())).await.unwrap();
    drop(chunks);
    assert_eq!(push.await.unwrap().unwrap().status(), StatusCode::CREATED);
    registry.stop().await;
}

#[tokio::test]
async fn http2_without_tls_carries_the_same_api() {
    let registry = TestRegistry::start().await;
    let blob = content(3_000_000, 2);
    let digest = sha256(&blob);
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let post = registry.url(&format!("/v2/a/blobs/uploads/?digest={digest}"));
    let pushed = client.post(post).body(blob.clone()).send().await.unwrap();
    assert_eq!((pushed.status(), pushed.version()), (StatusCode::CREATED, Version::HTTP_2));
    let url = registry.url(&format!("/v2/a/blobs/{digest}"));
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(header(&head, "content-length"), "3000000");
    assert!(client.get(&url).send().await.unwrap().bytes().await.unwrap() == blob);
}
