//! Blobs as the fake gives them.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};

use super::{Conduct, Fake, status};

/// Bytes of a body that are sent at once.
const PIECE_BYTES: usize = 64 * 1024;

impl Fake {
    pub(super) fn blob_response(
        &self,
        request: &Request,
        digest: &str,
        conduct: &Conduct,
    ) -> Response {
        let Some(mut blob) = self.0.content.lock().unwrap().blobs.get(digest).cloned() else {
            return status(404);
        };
        if conduct.corrupt {
            let mut changed = blob.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            blob = changed.into();
        }
        let size = blob.len();
        let from = request.headers().get(RANGE).filter(|_| !conduct.whole_only).map(|range| {
            let range = range.to_str().unwrap();
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        });
        let mut response = Response::builder();
        if from.is_some_and(|from: usize| from >= size) {
            return status(416);
        }
        if let Some(from) = from {
            let range = format!("bytes {from}-{}/{size}", size - 1);
            response = response.status(206).header(CONTENT_RANGE, range);
        }
        let from: usize = from.unwrap_or(0);
        let response = match conduct.no_length {
            true => response,
            false => response.header(CONTENT_LENGTH, size - from + conduct.longer),
        };
        if request.method() == "HEAD" {
            // An empty body would say that it has no bytes.
            let unsaid = stream::pending::<Result<Bytes, std::io::Error>>();
            let body = if conduct.no_length { Body::from_stream(unsaid) } else { Body::empty() };
            return response.body(body).unwrap();
        }
        let mut coming = self.0.conduct.lock().unwrap();
        let cut = (!coming.cut_after.is_empty()).then(|| coming.cut_after.remove(0));
        drop(coming);
        let gate = self.0.gate.subscribe();
        let end = cut.map_or(size, |cut| (from + cut).min(size));
        let pieces = stream::try_unfold((from, gate), move |(at, mut gate)| {
            let blob = blob.clone();
            async move {
                if at >= end {
                    if end == size {
                        return Ok(None);
                    }
                    // What was said before leaves first.
                    tokio::task::yield_now().await;
                    return Err(std::io::Error::other("cut"));
                }
                let open = *gate.wait_for(|open| *open > at).await.unwrap();
                let next = end.min(open).min(at + PIECE_BYTES);
                Ok(Some((blob.slice(at..next), (next, gate))))
            }
        });
        response.body(Body::from_stream(pieces)).unwrap()
    }
}
