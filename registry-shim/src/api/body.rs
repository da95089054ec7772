//! Bodies of answers, and the reading of requests' bodies within bounds.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use longshore_proto::ErrorCode;
use prometheus_client::metrics::counter::Counter;

use super::ApiError;
use crate::limits::Pace;
use crate::storage::BlobStream;
use crate::upstream::UpstreamError;

/// A sender that gives nothing for this long has gone. With [`DRAIN_TIMEOUT`] it is less than the
/// minute after which a connection without movement is cut: the sender shall get an answer.
const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Read and dropped after a refusal, so that a client which is still sending sees the answer.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Any error of a body, as hyper and tonic take them.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body.
#[derive(Default)]
pub(crate) enum Body {
    /// None.
    #[default]
    Empty,
    /// All at once.
    Full(Bytes),
    /// A blob from the store; its bytes are counted as they leave.
    Blob(BlobStream, Counter),
    /// A blob that is still on its way from an upstream.
    Growing(BoxStream<'static, Result<Bytes, UpstreamError>>, Counter),
    /// Of the gRPC services.
    Rpc(tonic::body::Body),
}

impl Body {
    /// Whether it comes from somewhere while it is sent.
    pub(crate) const fn is_stream(&self) -> bool {
        !matches!(self, Self::Empty | Self::Full(_) | Self::Rpc(_))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            body @ Self::Full(_) => {
                let Self::Full(bytes) = std::mem::take(body) else { return Poll::Ready(None) };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Blob(stream, sent) => match stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    sent.inc_by(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::error!(%error, "blob breaks off");
                    Poll::Ready(Some(Err(error.into())))
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Self::Growing(stream, sent) => match stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    sent.inc_by(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                // Once per fill it is in the log, whoever reads it.
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Self::Rpc(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Blob(..) | Self::Growing(..) => false,
            Self::Rpc(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Blob(..) | Self::Growing(..) => SizeHint::default(),
            Self::Rpc(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Blob(..) => "Blob",
            Self::Growing(..) => "Growing",
            Self::Rpc(_) => "Rpc",
        })
    }
}

/// The next bytes of a request's body; `None` at its end.
pub(super) async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    loop {
        let frame = tokio::time::timeout(BODY_IDLE_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| {
            ApiError::new(ErrorCode::BlobUploadInvalid, "body stalled")
                .with_status(http::StatusCode::REQUEST_TIMEOUT)
        })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                let message = format!("body broke off: {error}");
                return Err(ApiError::new(ErrorCode::BlobUploadInvalid, message));
            }
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The same at the client's pace: what waits in the connection slows the client down.
pub(super) async fn next_bytes_at(
    pace: Option<&Pace>,
    body: &mut Incoming,
) -> Result<Option<Bytes>, ApiError> {
    let Some(pace) = pace else { return next_bytes(body).await };
    pace.ready().await;
    let next = next_bytes(body).await?;
    pace.moved(next.as_ref().map_or(0, Bytes::len));
    Ok(next)
}

/// The whole body; `None` when it has more than `max` bytes.
pub(super) async fn read_whole(body: &mut Incoming, max: usize) -> Result<Option<Bytes>, ApiError> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = next_bytes(body).await? {
        if whole.len() + bytes.len() > max {
            return Ok(None);
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(Some(whole.freeze()))
}

/// Reads what a refused client is still sending, within bounds.
pub(super) async fn drain(body: &mut Incoming) {
    let read = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Ok(Some(bytes)) = next_bytes(body).await {
            match left.checked_sub(bytes.len()) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whatever comes later meets a closed connection.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, read).await;
}
