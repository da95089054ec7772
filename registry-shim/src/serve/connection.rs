//! One connection: HTTP/1.1 or HTTP/2, watched for progress.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{BoxError, Handler, Limits, Peer, ServeMetrics};

/// Requests at once on one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 256;
const H2_HEADER_BYTES_MAX: u32 = 32 * 1024;
/// What a client may have under way: a 1 Gbit/s link with 8 ms.
const H2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Finds the other side dead within the sum.
const H2_PING_INTERVAL: Duration = Duration::from_secs(20);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For a connection that was asked to end because it rested.
const GOODBYE: Duration = Duration::from_secs(5);

/// What ends a connection from outside.
#[derive(Debug)]
pub(super) struct Ends {
    /// After the requests under way.
    pub(super) drain: CancellationToken,
    /// At once.
    pub(super) cut: CancellationToken,
}

/// What a connection did and when; times in milliseconds since its start.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// The last byte in either direction.
    moved_ms: AtomicU64,
    /// The end of the last request.
    ended_ms: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicUsize,
}

/// A request under way, until its answer's body has gone.
#[derive(Debug)]
struct InFlight<B> {
    body: B,
    /// Its end is noticed by its drop.
    _guard: Guard,
}

#[derive(Debug)]
struct Guard(Arc<Activity>);

/// A stream whose bytes are noticed.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Look again then.
    Fine(Instant),
    /// Nobody asks anything: end it politely.
    Resting,
    /// Nothing moves, or nothing was ever asked.
    Stuck,
}

/// Answers until the client, a limit or an end closes the connection.
pub(super) async fn serve<H: Handler>(
    stream: TcpStream,
    peer: Peer,
    handler: H,
    limits: Limits,
    metrics: &ServeMetrics,
    ends: Ends,
) {
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    let service = service_fn(|request: Request<Incoming>| {
        let (guard, handler, peer) = (Guard::new(&activity), handler.clone(), peer.clone());
        async move {
            let answer = handler.handle(request, peer).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| InFlight { body, _guard: guard }))
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    let shortest = limits.first_request_timeout.min(limits.idle_timeout).min(limits.stall_timeout);
    let (mut draining, mut look) = (false, activity.start + shortest);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(remote = %peer.address, error, "connection broke");
                }
                return;
            }
            () = ends.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = ends.cut.cancelled() => return,
            () = tokio::time::sleep_until(look) => match activity.judge(Instant::now(), &limits) {
                // What the connection does meanwhile may bring another deadline nearer.
                Verdict::Fine(until) => look = until.min(Instant::now() + shortest),
                Verdict::Resting if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                    look = Instant::now() + GOODBYE;
                }
                Verdict::Resting | Verdict::Stuck => {
                    metrics.timed_out.inc();
                    return;
                }
            }
        }
    }
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
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES);
    builder
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            moved_ms: AtomicU64::new(0),
            ended_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn judge(&self, now: Instant, limits: &Limits) -> Verdict {
        let at = |ms: &AtomicU64| self.start + Duration::from_millis(ms.load(Ordering::Relaxed));
        let (deadline, verdict) = if self.in_flight.load(Ordering::Acquire) > 0 {
            (at(&self.moved_ms) + limits.stall_timeout, Verdict::Stuck)
        } else if self.requests.load(Ordering::Relaxed) == 0 {
            (self.start + limits.first_request_timeout, Verdict::Stuck)
        } else {
            (at(&self.ended_ms) + limits.idle_timeout, Verdict::Resting)
        };
        if deadline > now { Verdict::Fine(deadline) } else { verdict }
    }
}

impl Guard {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        activity.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(activity.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.ended_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<B> Body for InFlight<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Watched {
    fn moved(&self, bytes: usize) {
        if bytes > 0 {
            self.activity.moved_ms.store(self.activity.now_ms(), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.moved(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.moved(*bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.moved(*bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn judges_a_connection_by_what_it_did() {
        let (limits, activity) = (Limits::FRONT, Arc::new(Activity::new()));
        let judge = || activity.judge(Instant::now(), &limits);
        assert_eq!(judge(), Verdict::Fine(activity.start + limits.first_request_timeout));
        tokio::time::advance(limits.first_request_timeout).await;
        assert_eq!(judge(), Verdict::Stuck, "it never asked anything");

        let request = Guard::new(&activity);
        assert!(matches!(judge(), Verdict::Fine(_)));
        tokio::time::advance(limits.stall_timeout).await;
        assert_eq!(judge(), Verdict::Stuck, "nothing moved during a request");

        drop(request);
        assert_eq!(judge(), Verdict::Fine(Instant::now() + limits.idle_timeout));
        tokio::time::advance(limits.idle_timeout).await;
        assert_eq!(judge(), Verdict::Resting);
    }
}
