//! One connection: the handshake where there is TLS, then HTTP/1.1 or HTTP/2.
//!
//! What it does leaves marks in its [`Activity`]; it ends when that orders it to. Everything here
//! runs for each request: no clock, no lock, no allocation of its own.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use super::activity::{Activity, Order};
use super::stream::Stream;
use super::{BoxError, Handler, Peer};

/// Requests at once on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 256;
const H2_HEADER_BYTES_MAX: u32 = 32 * 1024;
/// What a client may have under way: a 1 Gbit/s link with 8 ms.
const H2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What a stream may have buffered for a client that does not read.
const H2_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Finds the other side dead within the sum.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What every request of a connection needs, behind one count.
struct Shared<H> {
    handler: H,
    peer: Peer,
    activity: Arc<Activity>,
}

/// A request under way, until its answer's body has gone.
struct InFlight<B, H> {
    body: B,
    /// Its end is noticed by its drop.
    guard: Guard<H>,
}

struct Guard<H> {
    shared: Arc<Shared<H>>,
    /// HTTP/2 can keep one body from moving while others do.
    multiplexed: bool,
    /// Since which part of time the body waits for the client.
    waits: Option<u8>,
}

/// Answers until the client, a limit or an end closes the connection.
pub(super) async fn serve<H: Handler>(
    stream: Stream,
    peer: Peer,
    handler: H,
    activity: Arc<Activity>,
) {
    let shared = Arc::new(Shared { handler, peer, activity: activity.clone() });
    let io = TokioIo::new(stream);
    let service = service_fn(|request: Request<Incoming>| {
        let guard = Guard::new(&shared, request.version());
        async move {
            let shared = &guard.shared;
            let answer = shared.handler.handle(request, &shared.peer).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| InFlight { body, guard }))
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    let (mut waker, mut draining) = (None, false);
    std::future::poll_fn(|cx| {
        match activity.order(cx, &mut waker) {
            Order::Cut => return Poll::Ready(()),
            Order::Drain if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Drain | Order::Go => {}
        }
        connection.as_mut().poll(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(remote = %shared.peer.address, error, "connection broke");
            }
        })
    })
    .await;
}

/// HTTP/1 gets no timer: the activity's deadlines stand for the ones of hyper.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(H2_HEADER_BYTES_MAX)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES);
    builder
}

impl<H> Guard<H> {
    fn new(shared: &Arc<Shared<H>>, version: Version) -> Self {
        shared.activity.began();
        Self { shared: shared.clone(), multiplexed: version == Version::HTTP_2, waits: None }
    }

    fn waits_no_more(&mut self) {
        self.shared.activity.waits_no_more(self.waits.take());
    }
}

impl<H> Drop for Guard<H> {
    fn drop(&mut self) {
        self.waits_no_more();
        self.shared.activity.ended();
    }
}

impl<B, H> Body for InFlight<B, H>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let guard = &mut self.guard;
        if guard.multiplexed {
            match &frame {
                // Asked again only when the client has taken it.
                Poll::Ready(Some(Ok(_))) => {
                    guard.waits = Some(guard.shared.activity.waits(guard.waits));
                }
                // The source is slow, and has deadlines of its own.
                Poll::Pending | Poll::Ready(_) => guard.waits_no_more(),
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
