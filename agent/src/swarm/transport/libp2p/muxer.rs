//! yamux with the bounds of our traffic.
//!
//! `libp2p-yamux` exposes the number of streams only. Ours are four long-lived ones, so frames can
//! be large (fewer TLS records and flushes) and the window of a stream bounded, which bounds both
//! what a peer makes us keep and how long a message waits behind a payload.

use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready as poll_ready};
use std::time::Duration;

use ::libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use ::libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use futures::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// Two streams each way, and as many that are being refused.
const STREAMS_MAX: usize = 8;
/// Of one frame, and so of what a message waits for at least: 10 ms at 50 Mbit/s.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// All streams' windows together. Each begins at 256 KiB and grows to twice what the round trip
/// holds; the growth of 4 MiB is 25 Gbit/s at 1 ms.
const WINDOW_BYTES_MAX: usize = STREAMS_MAX * 256 * 1024 + 4 * 1024 * 1024;
/// For the last frames of a connection; a peer that does not take them loses them.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The upgrade.
#[derive(Clone, Debug)]
pub(super) struct Yamux;

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C> InboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(connection, yamux::Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Yamux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(Muxer::new(connection, yamux::Mode::Client)))
    }
}

/// A yamux connection as libp2p wants it.
#[derive(Debug)]
pub(super) struct Muxer<C> {
    connection: yamux::Connection<C>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C> Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    fn new(connection: C, mode: yamux::Mode) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(STREAMS_MAX)
            .set_max_connection_receive_window(Some(WINDOW_BYTES_MAX))
            .set_split_send_size(FRAME_BYTES_MAX);
        Self { connection: yamux::Connection::new(connection, config, mode), closing: None }
    }
}

impl<C> StreamMuxer for Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Substream = yamux::Stream;
    type Error = yamux::ConnectionError;

    /// Also what moves every byte of the connection: the swarm polls it at every wake, as it has
    /// room for more streams in negotiation than [`STREAMS_MAX`].
    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<yamux::Stream, yamux::ConnectionError>> {
        let stream = poll_ready!(self.connection.poll_next_inbound(cx));
        Poll::Ready(stream.unwrap_or(Err(yamux::ConnectionError::Closed)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<yamux::Stream, yamux::ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), yamux::ConnectionError>> {
        let this = self.get_mut();
        let closing = this.closing.get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
        if closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        this.connection.poll_close(cx)
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, yamux::ConnectionError>> {
        Poll::Pending
    }
}
