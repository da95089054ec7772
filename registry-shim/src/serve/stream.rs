//! A connection's bytes, clear or encrypted; that they move leaves a mark.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;

/// A stream whose movement is noticed.
pub(super) struct Stream {
    inner: Inner,
    activity: Arc<Activity>,
}

enum Inner {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) const fn clear(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { inner: Inner::Clear(stream), activity }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, activity: Arc<Activity>) -> Self {
        Self { inner: Inner::Tls(Box::new(stream)), activity }
    }

    fn moved(&self, bytes: usize) {
        if bytes > 0 {
            self.activity.moved();
        }
    }
}

/// One call on whichever stream it is.
macro_rules! with {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.inner {
            Inner::Clear(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Inner::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = with!(self, stream => stream.poll_read(cx, buffer));
        self.moved(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = with!(self, stream => stream.poll_write(cx, bytes));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.moved(*bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = with!(self, stream => stream.poll_write_vectored(cx, bytes));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.moved(*bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Clear(stream) => stream.is_write_vectored(),
            Inner::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self, stream => stream.poll_shutdown(cx))
    }
}
