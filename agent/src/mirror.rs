//! containerd's mirror: the OCI pull API on a loopback port.
//!
//! Owns the listener, its connections and the answers. It answers every request within a bound,
//! with bytes or with a status that sends containerd to its next host; it never redirects, never
//! answers 429 or 408, and sends a success only with its first bytes in hand. It ends with its
//! token: it stops to accept at once, and gives bodies in flight a grace.

mod answer;
mod guard;
mod handler;
mod metrics;
mod patience;
mod route;

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use metrics::MirrorMetrics;

use handler::Handler;
use patience::Patient;

use crate::containerd::MirrorSecret;
use crate::pull::Puller;

/// Connections at once; more are closed, which sends containerd on. It opens a handful per pull.
const CONNECTIONS_MAX: usize = 1024;
/// For a request's head, and between two requests; longer than containerd's own 30 s and 90 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// A client that takes no byte for this long is gone. A layer waits for others to be unpacked,
/// so this is generous.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);
/// After a failed accept (no descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long bodies in flight may take once the agent stops.
pub const DRAIN_GRACE: Duration = Duration::from_secs(8);

/// What the mirror needs to know.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// What a request must bring; none opens the mirror to all local users.
    pub secret: Option<MirrorSecret>,
    /// Longest wait for the first byte of an answer.
    pub first_byte_timeout: Duration,
}

/// A bound mirror.
#[derive(Debug)]
pub struct Mirror {
    listener: TcpListener,
    handler: Arc<Handler>,
}

impl Mirror {
    /// A mirror on this port, which it answers once it runs.
    pub fn new(
        listener: TcpListener,
        options: MirrorOptions,
        puller: Puller,
        metrics: MirrorMetrics,
    ) -> Self {
        Self { listener, handler: Arc::new(Handler::new(options, puller, metrics)) }
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let tasks = TaskTracker::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // Ends what the grace did not.
        let cut = CancellationToken::new();
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match stream {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                    self.serve(stream, place, &graceful, &tasks, cut.clone());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        let drained = tokio::time::timeout(DRAIN_GRACE, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!(connections = tasks.len(), "cut connections that did not end in time");
        }
        cut.cancel();
        tasks.close();
        tasks.wait().await;
    }

    fn serve(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
        tasks: &TaskTracker,
        cut: CancellationToken,
    ) {
        // Bodies are written in large parts; only their ends would wait.
        let _ = stream.set_nodelay(true);
        let handler = Arc::clone(&self.handler);
        let service = service_fn(move |request| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, std::convert::Infallible>(handler.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), service);
        let connection = graceful.watch(connection);
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = cut.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    // Resets are usual: containerd leaves when it has what it wants.
                    tracing::debug!(%error, "a connection ended");
                }
            }
        });
    }
}
