//! Listening: connections in HTTP/1.1 and HTTP/2 on one port, within bounds, until a drain.
//!
//! Owns the listener and a task per connection, joined before it returns. A connection that sends
//! no request, rests, or stands still in the middle of one is closed. It knows nothing of what is
//! asked. It ends with its tokens: no new connection, the requests under way go on for the grace,
//! the rest is cut.

mod activity;
mod connection;
mod peer;
mod stream;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use activity::{Activity, Order, Watch};
pub use peer::Peer;
use stream::Stream;
pub use tls::{Tls, TlsError, TlsMetrics, check as check_tls};

/// Connections that the kernel holds until they are accepted: a fleet boots at once.
const BACKLOG: u32 = 4096;
/// After an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Any error of a body, as hyper takes them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the backlog.
    pub connections_max: usize,
    /// From the connection's start to its first request's headers.
    pub first_request_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Without a byte in either direction while a request is under way.
    pub stall_timeout: Duration,
    /// For the requests under way once the end has come.
    pub drain_grace: Duration,
}

impl Limits {
    /// For the front door.
    pub const FRONT: Self = Self {
        connections_max: 16_384,
        first_request_timeout: Duration::from_secs(10),
        // Longer than the 90 s after which Go's and reqwest's pools give a connection up.
        idle_timeout: Duration::from_secs(120),
        // Longer than the 30 s within which a client wants an answer's head.
        stall_timeout: Duration::from_secs(60),
        drain_grace: Duration::from_secs(25),
    };

    /// For operators: metrics and health.
    pub const ADMIN: Self = Self {
        connections_max: 64,
        first_request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(120),
        stall_timeout: Duration::from_secs(10),
        drain_grace: Duration::from_secs(1),
    };
}

/// What a listener counts.
#[derive(Clone, Debug, Default)]
pub struct ServeMetrics {
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were accepted.
    pub accepted: Counter,
    /// Connections closed because they asked nothing, rested or stood still.
    pub timed_out: Counter,
    /// Connections cut at the end of a drain.
    pub cut: Counter,
}

impl ServeMetrics {
    /// Enters them under the names `<prefix>_connections` and so on.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("connections_accepted", "Connections that were accepted", &self.accepted),
            (
                "connections_timed_out",
                "Connections closed because they asked nothing, rested or stood still",
                &self.timed_out,
            ),
            ("connections_cut", "Connections cut at the end of a drain", &self.cut),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("connections", "Open connections", self.connections.clone());
    }
}

/// Answers the requests of all connections of a listener.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The answer's body.
    type Body: http_body::Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static;

    /// Answers; errors are answers too.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Binds `address` with a backlog for bursts.
///
/// # Errors
/// `AddrInUse` when another process has the port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What ends a listener.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// No new connection; the requests under way go on for the grace.
    pub drain: CancellationToken,
    /// No grace, or what is left of it no longer.
    pub cut: CancellationToken,
}

/// Serves until `ends.drain`, then drains.
pub async fn run<H: Handler>(
    listener: TcpListener,
    tls: Option<Tls>,
    handler: H,
    limits: Limits,
    metrics: ServeMetrics,
    ends: Ends,
) {
    let (connections, mut watch) = (TaskTracker::new(), Watch::new(limits, metrics.clone()));
    let mut looks = tokio::time::interval(watch.period());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let room = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            () = ends.drain.cancelled() => break,
            now = looks.tick() => {
                watch.look(now);
                continue;
            }
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, remote, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        metrics.accepted.inc();
        metrics.connections.inc();
        let (tls, handler, activity) = (tls.clone(), handler.clone(), watch.begin());
        let metrics = metrics.clone();
        connections.spawn(async move {
            if let Some((stream, peer)) = meet(stream, remote, tls, &activity).await {
                connection::serve(stream, peer, handler, activity).await;
            }
            metrics.connections.dec();
            drop(place);
        });
    }
    // Whoever connects from now on is refused and goes to another instance.
    drop(listener);
    connections.close();
    watch.order(Order::Drain);
    let ended = async {
        loop {
            tokio::select! {
                () = connections.wait() => return,
                now = looks.tick() => watch.look(now),
            }
        }
    };
    let in_grace = tokio::select! {
        ended = tokio::time::timeout(limits.drain_grace, ended) => ended.is_ok(),
        () = ends.cut.cancelled() => connections.is_empty(),
    };
    if !in_grace {
        metrics.cut.inc_by(connections.len() as u64);
        tracing::warn!(connections = connections.len(), "cuts connections that did not end");
        watch.order(Order::Cut);
        connections.wait().await;
    }
}

/// The connection as requests will know it; `None` when the handshake fails or the end comes first.
async fn meet(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Tls>,
    activity: &Arc<Activity>,
) -> Option<(Stream, Peer)> {
    let mut peer = Peer::at(remote);
    let Some(tls) = tls else {
        return Some((Stream::clear(stream, activity.clone()), peer));
    };
    let mut waker = None;
    let ended = std::future::poll_fn(|cx| match activity.order(cx, &mut waker) {
        Order::Go => Poll::Pending,
        Order::Drain | Order::Cut => Poll::Ready(()),
    });
    let stream = tokio::select! {
        stream = tls.accept(stream) => stream?,
        () = ended => return None,
    };
    let shown = stream.get_ref().1.peer_certificates();
    peer.certificate = shown.and_then(|chain| chain.first()).cloned().map(Arc::new);
    peer.tls = true;
    Some((Stream::tls(stream, activity.clone()), peer))
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, remote) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, remote, place))
}

#[cfg(test)]
mod tests;
