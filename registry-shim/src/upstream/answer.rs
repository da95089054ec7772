//! What an upstream's answer means, and the reading of answers within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use longshore_proto::{ErrorBody, ErrorCode};
use reqwest::Response;

use super::error::UpstreamError;

/// An error's body, of which the first message is shown.
const ERROR_BYTES_MAX: usize = 16 * 1024;
const ERROR_CHARS_MAX: usize = 200;
/// For a body that is held whole, so that a client hears of it before it gives up.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a blob may rest as long.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The answer, where its status means yes. A refused `push` bears the upstream's reason.
pub(super) async fn judge(response: Response, push: bool) -> Result<Response, UpstreamError> {
    let limited = || Err(limited(response.headers()));
    match response.status().as_u16() {
        200..=299 | 304 => Ok(response),
        429 => limited(),
        503 if response.headers().contains_key(RETRY_AFTER) => limited(),
        408 | 504 => Err(UpstreamError::TimedOut),
        status @ 500.. => Err(UpstreamError::Unavailable(format!("it says {status}"))),
        401 | 403 => Err(UpstreamError::Denied),
        _ if push => Err(refused(response).await),
        404 => Err(UpstreamError::NotFound),
        other => Err(UpstreamError::BadAnswer(format!("it says {other}"))),
    }
}

/// It is asked too often, and says when to come back or not.
pub(super) fn limited(headers: &HeaderMap) -> UpstreamError {
    UpstreamError::Limited { retry_after_s: retry_after_s(headers) }
}

/// The pusher learns the upstream's reason.
async fn refused(response: Response) -> UpstreamError {
    let fallback = format!("it says {}", response.status().as_u16());
    let code = match response.status().as_u16() {
        413 => ErrorCode::SizeInvalid,
        404 => ErrorCode::NameUnknown,
        405 => ErrorCode::Unsupported,
        _ => ErrorCode::ManifestInvalid,
    };
    let body = read_bounded(response, ERROR_BYTES_MAX).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body).ok().and_then(ErrorBody::into_first) {
        Some((code, message)) => UpstreamError::Refused {
            code,
            message: message.chars().take(ERROR_CHARS_MAX).collect(),
        },
        None => UpstreamError::Refused { code, message: fallback },
    }
}

/// Seconds, or a date of HTTP; 0 when nothing is said.
fn retry_after_s(headers: &HeaderMap) -> u64 {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else {
        return 0;
    };
    if let Ok(seconds) = text.trim().parse() {
        return seconds;
    }
    let format = &time::format_description::well_known::Rfc2822;
    let Ok(at) = time::OffsetDateTime::parse(text.trim(), format) else { return 0 };
    let left = (at - time::OffsetDateTime::now_utc()).whole_seconds();
    u64::try_from(left).unwrap_or(0)
}

/// A body that is held whole; one that is longer, or takes long, is an error.
pub(super) async fn read_bounded(
    mut response: Response,
    bytes_max: usize,
) -> Result<Bytes, UpstreamError> {
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            if whole.len() + chunk.len() > bytes_max {
                return Err(UpstreamError::BadAnswer(format!("more than {bytes_max} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    };
    tokio::time::timeout(WHOLE_TIMEOUT, read).await.map_err(|_| UpstreamError::TimedOut)?
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_that_drip_are_not_waited_for() {
        let drips = stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let dripping = http::Response::new(reqwest::Body::wrap_stream(drips));
        let begun = Instant::now();
        let read = read_bounded(dripping.into(), 1000).await;
        assert_eq!((read, begun.elapsed()), (Err(UpstreamError::TimedOut), WHOLE_TIMEOUT));
    }

    #[test]
    fn reads_both_forms_of_retry_after() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            retry_after_s(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(read("7"), 7);
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
        assert!(read("Wed, 21 Oct 2115 07:28:00 GMT") > 1_000_000);
        assert_eq!((read("soon"), read("-1"), retry_after_s(&HeaderMap::new())), (0, 0, 0));
    }
}
