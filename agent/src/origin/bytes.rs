//! Reading bytes of a blob over HTTP: one ranged GET, exactly the range asked for.
//!
//! No deadline on the whole request, a large blob takes as long as it takes; one on the dial, one
//! on the headers, one on every wait for the next bytes. It verifies lengths and ranges, not
//! content: that is the store's.

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};
use longshore_proto::ByteRange;
use reqwest::{Response, Url};

use super::{BlobStream, Fetch, OriginError};

const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for this long the source counts as stalled.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A store behind the origin may redirect, a few times.
const REDIRECTS_MAX: usize = 4;
/// A permit needs a handful of headers.
const HEADERS_MAX: usize = 32;
const RETRY_DEFAULT: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct BytesReader {
    base: Url,
    client: reqwest::Client,
}

impl BytesReader {
    pub(super) fn new(base: Url, connect_timeout: Duration) -> Result<Self, OriginError> {
        let client = reqwest::Client::builder()
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| OriginError::Invalid(error.to_string()))?;
        Ok(Self { base, client })
    }

    pub(super) async fn read(&self, fetch: Fetch) -> Result<BlobStream, OriginError> {
        let request = self.client.get(self.url(&fetch)?).headers(headers(&fetch)?);
        let response = tokio::time::timeout(HEADERS_TIMEOUT, request.send())
            .await
            .map_err(|_| OriginError::Unavailable("no answer from the store in time".into()))?
            .map_err(|error| OriginError::Unavailable(chain(&error)))?;
        check(&response, fetch.range)?;
        Ok(exactly(fetch.range.length(), response.bytes_stream().boxed()).boxed())
    }

    fn url(&self, fetch: &Fetch) -> Result<Url, OriginError> {
        let path = format!("v2/{}/blobs/{}", fetch.repository, fetch.digest);
        let url = match &fetch.permit {
            Some(permit) if !permit.url.is_empty() => self.base.join(&permit.url),
            _ => self.base.join(&path),
        };
        let url = url.map_err(|error| OriginError::Invalid(error.to_string()))?;
        if matches!(url.scheme(), "http" | "https") {
            Ok(url)
        } else {
            Err(OriginError::Invalid(format!("permit names a URL of scheme {}", url.scheme())))
        }
    }
}

fn headers(fetch: &Fetch) -> Result<http::HeaderMap, OriginError> {
    let invalid = || OriginError::Invalid("permit has headers that are none".into());
    let mut headers = http::HeaderMap::new();
    let given = fetch.permit.iter().flat_map(|permit| &permit.headers);
    for header in given.take(HEADERS_MAX) {
        let name = HeaderName::try_from(&header.name).map_err(|_| invalid())?;
        headers.insert(name, HeaderValue::try_from(&header.value).map_err(|_| invalid())?);
    }
    let range = HeaderValue::try_from(fetch.range.header_value()).map_err(|_| invalid())?;
    headers.insert(RANGE, range);
    Ok(headers)
}

/// Whether what comes is what was asked for.
fn check(response: &Response, range: ByteRange) -> Result<(), OriginError> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    match status {
        StatusCode::PARTIAL_CONTENT | StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            let message = format!("the store answered {status}");
            return Err(OriginError::NotFound { code: "BLOB_UNKNOWN".into(), message });
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(OriginError::Denied(format!("the store answered {status}")));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = header(http::header::RETRY_AFTER).and_then(|text| text.parse().ok());
            let retry_after = seconds.map_or(RETRY_DEFAULT, Duration::from_secs).min(RETRY_LONGEST);
            return Err(OriginError::Busy { retry_after });
        }
        status => {
            return Err(OriginError::Unavailable(format!("the store answered {status}")));
        }
    }
    let begins = format!("bytes {}-{}/", range.offset(), range.end() - 1);
    let right_range = match status {
        StatusCode::PARTIAL_CONTENT => {
            header(CONTENT_RANGE).is_some_and(|said| said.starts_with(&begins))
        }
        // The whole blob is what was asked for, if it begins and ends with the range.
        _ => range.offset() == 0,
    };
    let right_length = header(CONTENT_LENGTH)
        .and_then(|text| text.parse::<u64>().ok())
        .is_none_or(|length| length == range.length());
    if right_range && right_length && header(CONTENT_ENCODING).is_none() {
        Ok(())
    } else {
        Err(OriginError::Invalid("the store sent another range than it was asked for".into()))
    }
}

/// Passes on bytes until there are `length`; an error when they end or pause too early, or go on.
fn exactly(
    length: u64,
    body: impl Stream<Item = reqwest::Result<Bytes>> + Unpin + Send,
) -> impl Stream<Item = Result<Bytes, OriginError>> + Send {
    stream::unfold(Some((body, length)), |state| async {
        let (mut body, left) = state?;
        let next = match tokio::time::timeout(IDLE_TIMEOUT, body.next()).await {
            Ok(next) => next,
            Err(_) => {
                return Some((Err(OriginError::Unavailable("the store stalls".into())), None));
            }
        };
        match next {
            Some(Ok(bytes)) if bytes.len() as u64 <= left => {
                let left = left - bytes.len() as u64;
                Some((Ok(bytes), Some((body, left))))
            }
            Some(Ok(_)) => {
                Some((Err(OriginError::Invalid("the store sent too much".into())), None))
            }
            Some(Err(error)) => Some((Err(OriginError::Unavailable(chain(&error))), None)),
            None if left > 0 => {
                Some((Err(OriginError::Unavailable("the store hung up".into())), None))
            }
            None => None,
        }
    })
}

/// An error and its causes, in one line; a presigned URL in it stays unsaid.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::from(if error.is_connect() { "connect" } else { "request" });
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "bytes_tests.rs"]
mod tests;
