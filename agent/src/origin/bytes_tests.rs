//! The store's answers, right and wrong.

use futures::TryStreamExt;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Algorithm, Digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that gives each connection this answer and hangs up; its address and what it was asked.
async fn answering(answer: String) -> (Url, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let length = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (url, task)
}

fn fetch(permit: Option<rpc::PiecePermit>) -> Fetch {
    Fetch {
        repository: "a/b".parse().unwrap(),
        digest: Digest::of(Algorithm::Sha256, b"blob"),
        range: ByteRange::new(10, 5).unwrap(),
        permit,
    }
}

async fn read(answer: &str) -> Result<Vec<u8>, OriginError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (url, task) = answering(answer.to_owned()).await;
    let reader = BytesReader::new(url, Duration::from_secs(5)).unwrap();
    let read = async { reader.read(fetch(None)).await?.try_collect::<Vec<Bytes>>().await };
    let parts = read.await;
    let asked = task.await.unwrap().to_lowercase();
    assert!(asked.starts_with("get /v2/a/b/blobs/sha256:") && asked.contains("bytes=10-14"));
    parts.map(|parts| parts.concat())
}

fn partial(range: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 206 P\r\ncontent-range: {range}\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn takes_exactly_the_range() {
    assert_eq!(read(&partial("bytes 10-14/99", "hello")).await.unwrap(), b"hello");
}

#[tokio::test]
async fn refuses_another_range_than_it_asked_for() {
    for answer in [
        partial("bytes 0-4/99", "hello"),
        partial("bytes 10-15/99", "hello!"),
        "HTTP/1.1 206 P\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_owned() + &"x".repeat(99),
        partial("bytes 10-14/99", "hello")
            .replace("\r\n\r\n", "\r\ncontent-encoding: gzip\r\n\r\n"),
    ] {
        assert!(matches!(read(&answer).await, Err(OriginError::Invalid(_))), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_no_success() {
    let cut = partial("bytes 10-14/99", "hel").replace("length: 3", "length: 5");
    assert!(matches!(read(&cut).await, Err(OriginError::Unavailable(_))));
    let chunked = "HTTP/1.1 206 P\r\ncontent-range: bytes 10-14/99\r\n\
                   transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n\r\n";
    assert!(matches!(read(chunked).await, Err(OriginError::Unavailable(_))));
    let long = chunked.replace("3\r\nhel", "6\r\nhello!");
    assert!(matches!(read(&long).await, Err(OriginError::Invalid(_))));
}

#[tokio::test]
async fn a_status_says_what_to_do() {
    let status = async |line: &str| {
        read(&format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n")).await.unwrap_err()
    };
    assert!(matches!(status("404 N").await, OriginError::NotFound { .. }));
    assert!(matches!(status("403 F").await, OriginError::Denied(_)));
    assert!(matches!(status("500 E").await, OriginError::Unavailable(_)));
    let busy = status("503 B\r\nretry-after: 7").await;
    assert!(matches!(busy, OriginError::Busy { retry_after } if retry_after.as_secs() == 7));
    let long = status("429 B\r\nretry-after: 99999").await;
    assert!(matches!(long, OriginError::Busy { retry_after } if retry_after == RETRY_LONGEST));
}

#[tokio::test]
async fn a_permit_brings_its_url_and_headers_and_no_other_scheme() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (url, task) = answering(partial("bytes 10-14/99", "hello")).await;
    let reader = BytesReader::new("http://127.0.0.1:9".parse().unwrap(), Duration::from_secs(5));
    let header = rpc::Header { name: "x-permit".into(), value: "yes".into() };
    let permit = rpc::PiecePermit {
        url: url.join("elsewhere?signed=1").unwrap().to_string(),
        headers: vec![header],
        ..Default::default()
    };
    let reader = reader.unwrap();
    let body: Vec<Bytes> =
        reader.read(fetch(Some(permit.clone()))).await.unwrap().try_collect().await.unwrap();
    assert_eq!(body.concat(), b"hello");
    let asked = task.await.unwrap().to_lowercase();
    assert!(asked.starts_with("get /elsewhere?signed=1 ") && asked.contains("x-permit: yes"));

    let file = rpc::PiecePermit { url: "file:///etc/passwd".into(), ..permit.clone() };
    assert!(matches!(reader.read(fetch(Some(file))).await, Err(OriginError::Invalid(_))));
    let broken = rpc::Header { name: "a b".into(), value: "c".into() };
    let broken = rpc::PiecePermit { headers: vec![broken], ..permit };
    assert!(matches!(reader.read(fetch(Some(broken))).await, Err(OriginError::Invalid(_))));
}
