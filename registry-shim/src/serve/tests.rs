//! A listener with a small handler behind it, over real sockets.

use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;

type Boxed = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Answers at once, except `/slow`, which tells that it began and waits to be let go.
#[derive(Clone, Default)]
struct Echo {
    began: Arc<Notify>,
    go: Arc<Notify>,
}

impl Handler for Echo {
    type Body = Boxed;

    async fn handle(&self, request: Request<Incoming>, _peer: &Peer) -> Response<Boxed> {
        if request.uri().path() == "/slow" {
            self.began.notify_one();
            self.go.notified().await;
        }
        if request.uri().path() == "/endless" {
            let chunk = || Ok(http_body::Frame::data(Bytes::from_static(&[0; 16 * 1024])));
            let chunks = futures::stream::repeat_with(chunk);
            return Response::new(http_body_util::StreamBody::new(chunks).boxed_unsync());
        }
        let text = format!("{:?} {}", request.version(), request.uri().path());
        Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
    }
}

struct Served {
    address: SocketAddr,
    echo: Echo,
    metrics: ServeMetrics,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn served(limits: Limits) -> Served {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (echo, metrics, shutdown) =
        (Echo::default(), ServeMetrics::default(), CancellationToken::new());
    let task = tokio::spawn(run(
        listener,
        None,
        echo.clone(),
        limits,
        metrics.clone(),
        Ends { drain: shutdown.clone(), ..Ends::default() },
    ));
    Served { address, echo, metrics, shutdown, task }
}

fn client(http2: bool) -> reqwest::Client {
    // TLS is not used here, yet the client wants to know by whom.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    let builder = if http2 { builder.http2_prior_knowledge() } else { builder };
    builder.build().unwrap()
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn speaks_both_versions_on_one_port() {
    let served = served(Limits::FRONT);
    for (http2, expected) in [(false, "HTTP/1.1 /a"), (true, "HTTP/2.0 /a")] {
        let answer = client(http2).get(format!("http://{}/a", served.address)).send().await;
        assert_eq!(answer.unwrap().text().await.unwrap(), expected);
    }
    served.shutdown.cancel();
    served.task.await.unwrap();
    assert_eq!((served.metrics.accepted.get(), served.metrics.cut.get()), (2, 0));
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    for http2 in [false, true] {
        let served = served(Limits::FRONT);
        let slow = client(http2).get(format!("http://{}/slow", served.address)).send();
        let slow = tokio::spawn(slow);
        served.echo.began.notified().await;
        served.shutdown.cancel();
        let refused = async {
            while TcpStream::connect(served.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
        served.echo.go.notify_one();
        assert!(slow.await.unwrap().unwrap().text().await.unwrap().ends_with("/slow"));
        served.task.await.unwrap();
        assert_eq!(served.metrics.cut.get(), 0);
    }
}

#[tokio::test]
async fn a_drain_ends_even_when_a_request_does_not() {
    let served = served(Limits { drain_grace: Duration::from_millis(50), ..Limits::FRONT });
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    served.echo.began.notified().await;
    served.shutdown.cancel();
    served.task.await.unwrap();
    assert_eq!(served.metrics.cut.get(), 1);
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn closes_who_asks_nothing_and_who_stops_in_the_middle_of_a_header() {
    let short = Duration::from_millis(50);
    let served = served(Limits { first_request_timeout: short, ..Limits::FRONT });
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
    let mut preface = TcpStream::connect(served.address).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    for stream in [&mut silent, &mut slow, &mut preface] {
        let closed = tokio::time::timeout(Duration::from_secs(5), read_to_end(stream));
        assert_eq!(closed.await.unwrap(), "");
    }
    assert_eq!(served.metrics.timed_out.get(), 3);
}

#[tokio::test]
async fn closes_who_rests_and_who_stalls() {
    let short = Duration::from_millis(50);
    let limits = Limits { idle_timeout: short, stall_timeout: short, ..Limits::FRONT };
    let served = served(limits);
    let mut resting = TcpStream::connect(served.address).await.unwrap();
    resting.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut stalled = TcpStream::connect(served.address).await.unwrap();
    stalled.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), read_to_end(&mut resting)).await;
    assert!(answered.unwrap().ends_with("HTTP/1.1 /a"));
    let cut = tokio::time::timeout(Duration::from_secs(5), read_to_end(&mut stalled)).await;
    assert_eq!(cut.unwrap(), "");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let served = served(Limits { connections_max: 1, ..Limits::FRONT });
    let mut first = TcpStream::connect(served.address).await.unwrap();
    first.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    served.echo.began.notified().await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(b"GET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(served.metrics.accepted.get(), 1);
    served.echo.go.notify_one();
    assert!(read_to_end(&mut first).await.ends_with("/slow"));
    assert!(read_to_end(&mut second).await.ends_with("/b"));
}

#[tokio::test]
async fn closes_an_http2_client_that_opens_no_window_however_alive_it_is() {
    let limits = Limits { stall_timeout: Duration::from_millis(200), ..Limits::FRONT };
    let served = served(limits);
    let stream = TcpStream::connect(served.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(executor)
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(10))
        .handshake::<_, http_body_util::Empty<Bytes>>(hyper_util::rt::TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{}/endless", served.address));
    let request = request.body(http_body_util::Empty::new()).unwrap();
    let unread = client.send_request(request).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(10), connection).await;
    let _broken = closed.expect("pings do not keep it").unwrap();
    assert_eq!(served.metrics.timed_out.get(), 1);
    drop(unread);
}
