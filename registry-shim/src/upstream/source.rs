//! One read of a blob at the upstream, from any offset.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, StatusCode};
use longshore_proto::{Digest, RepositoryName};
use reqwest::Response;

use super::answer::STALL_TIMEOUT;
use super::ask::Ask;
use super::client::Client;
use super::error::UpstreamError;
use super::window::CHUNK_BYTES;

/// How long small bytes wait for more, so that readers are not woken for each.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// A blob's body as it comes.
#[derive(Debug)]
pub(super) struct Source {
    response: Response,
    /// To be dropped: the upstream began before the place that was asked for.
    skip: u64,
    size: Option<u64>,
    /// The body broke off behind what was given out: it must not look like its end.
    broken: Option<UpstreamError>,
}

impl Client {
    /// The blob's size, where the upstream says it; nothing of it is read.
    pub(super) async fn blob_size(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let response = self.ask(&Ask::head(repository, format!("blobs/{digest}"))).await?;
        Ok(length(response.headers()))
    }

    /// The blob from `offset` on.
    pub(super) async fn read_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        offset: u64,
    ) -> Result<Source, UpstreamError> {
        let ask = Ask::get(repository, format!("blobs/{digest}")).from(offset);
        let response = self.ask(&ask).await?;
        let (skip, size) = match response.status() {
            // Not every registry knows ranges.
            StatusCode::OK => (offset, length(response.headers())),
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((first, size)) if first == offset => (0, Some(size)),
                _ => return Err(UpstreamError::BadAnswer("it sends another range".to_owned())),
            },
            status => {
                let said = format!("it says {} to a read", status.as_u16());
                return Err(UpstreamError::BadAnswer(said));
            }
        };
        Ok(Source { response, skip, size, broken: None })
    }
}

impl Source {
    /// Bytes of the whole blob, where the upstream says it.
    pub(super) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Some bytes, as many as come at about the same time, up to a chunk and a frame; none at the
    /// end.
    pub(super) async fn gather(&mut self) -> Result<Vec<Bytes>, UpstreamError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let (mut pieces, mut gathered) = (Vec::new(), 0);
        let mut wait = STALL_TIMEOUT;
        while gathered < CHUNK_BYTES {
            let piece = match tokio::time::timeout(wait, self.response.chunk()).await {
                Ok(Ok(Some(piece))) => self.skipped(piece),
                Ok(Ok(None)) => break,
                // What came before counts; the next call tells of it.
                Ok(Err(error)) if gathered > 0 => {
                    self.broken = Some(error.into());
                    break;
                }
                Err(_) if gathered > 0 => break,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(UpstreamError::TimedOut),
            };
            if !piece.is_empty() {
                gathered += piece.len() as u64;
                pieces.push(piece);
                wait = GATHER_TIME;
            }
        }
        Ok(pieces)
    }

    fn skipped(&mut self, mut piece: Bytes) -> Bytes {
        let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= skip as u64;
        piece.split_off(skip)
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and size of `bytes first-last/size`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, size) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last.checked_add(1)? == size).then_some((first, size))
}

#[cfg(test)]
mod tests {
    use futures::stream::{self, StreamExt as _};
    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_upstream_is_waited_for_and_not_for_ever() {
        let pieces = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"some"))]);
        let body = reqwest::Body::wrap_stream(pieces.chain(stream::pending()));
        let response = Response::from(http::Response::new(body));
        let mut source = Source { response, skip: 1, size: None, broken: None };
        assert_eq!(source.gather().await.unwrap(), [Bytes::from_static(b"ome")]);
        let begun = Instant::now();
        assert_eq!(source.gather().await, Err(UpstreamError::TimedOut));
        assert_eq!(begun.elapsed(), STALL_TIMEOUT);
    }

    #[test]
    fn only_a_range_to_the_end_counts() {
        let read = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            content_range(&HeaderMap::from_iter([(CONTENT_RANGE, value)]))
        };
        assert_eq!(read("bytes 5-9/10"), Some((5, 10)));
        for bad in [
            "bytes 5-8/10",
            "bytes 9-5/10",
            "bytes 5-9/*",
            "5-9/10",
            "bytes */10",
            "bytes 0-18446744073709551615/0",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
