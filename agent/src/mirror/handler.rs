//! One request: from its head to its answer.
//!
//! Holds the bound on the first byte: the plan, the want and the first verified bytes all have to
//! come within it, else containerd is sent to its next host. After that the body has its own
//! bounds, see [`crate::pull::Tail`].

use std::time::Instant;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use longshore_proto::{ByteRange, Digest, Reference, RequestedRange};
use prometheus_client::metrics::gauge::Gauge;

use super::answer::{self, Body};
use super::guard;
use super::metrics::StatusLabel;
use super::route::{self, Asked};
use super::{MirrorMetrics, MirrorOptions};
use crate::pull::{Place, PullError, Puller, ServedBlob, Tail, TailError};

#[derive(Debug)]
pub(super) struct Handler {
    options: MirrorOptions,
    puller: Puller,
    metrics: MirrorMetrics,
}

/// A body on its way; counts it as open until it is dropped.
struct Sending {
    tail: Tail,
    first: Option<Bytes>,
    metrics: MirrorMetrics,
    _open: Open,
}

struct Open(Gauge);

impl Handler {
    pub(super) const fn new(
        options: MirrorOptions,
        puller: Puller,
        metrics: MirrorMetrics,
    ) -> Self {
        Self { options, puller, metrics }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let bound = self.options.first_byte_timeout;
        let mut response = match tokio::time::timeout(bound, self.within_bound(&request)).await {
            Ok(response) => response,
            Err(_) => {
                tracing::warn!(path = request.uri().path(), "no first byte in time");
                answer::too_late()
            }
        };
        self.metrics.first_byte_seconds.observe(began.elapsed().as_secs_f64());
        self.count(response.status());
        if request.method() == Method::HEAD {
            *response.body_mut() = answer::empty();
        }
        tracing::debug!(
            method = %request.method(),
            path = request.uri().path(),
            status = response.status().as_u16(),
            "answered"
        );
        response
    }

    fn count(&self, status: StatusCode) {
        self.metrics.answers.inc();
        self.metrics.requests.get_or_create(&StatusLabel { status: status.as_u16() }).inc();
        if matches!(status.as_u16(), 401 | 403 | 404 | 500..=599) {
            self.metrics.handed_on.inc();
        }
    }

    async fn within_bound(&self, request: &Request<Incoming>) -> Response<Body> {
        let secret = self.options.secret.as_ref();
        if secret.is_some_and(|secret| !guard::brings(secret, request.headers())) {
            return answer::unauthorized();
        }
        match route::read(request, self.puller.registries()) {
            Err(refused) => answer::refused(&refused),
            Ok(Asked::Base) => answer::base(),
            Ok(Asked::Manifest(place, reference)) => {
                self.manifest(request.method(), &place, &reference).await
            }
            Ok(Asked::Blob(place, digest, range)) => {
                self.blob(request.method(), &place, &digest, range).await
            }
        }
    }

    async fn manifest(
        &self,
        method: &Method,
        place: &Place,
        reference: &Reference,
    ) -> Response<Body> {
        let served = match self.puller.manifest(place, reference).await {
            Ok(served) => served,
            Err(why) => return self.nothing(&why, false),
        };
        if *method == Method::GET {
            // Whoever takes the manifest takes the layers; a HEAD may only compare digests.
            self.puller.start_soon(place, served.digest);
        }
        answer::manifest(method, &served)
    }

    async fn blob(
        &self,
        method: &Method,
        place: &Place,
        digest: &Digest,
        range: Option<RequestedRange>,
    ) -> Response<Body> {
        let served = match self.puller.blob(place, digest).await {
            Ok(served) => served,
            Err(why) => return self.nothing(&why, range.is_some()),
        };
        let size = match &served {
            ServedBlob::Inline(content) => content.bytes.len() as u64,
            ServedBlob::Stored(blob) => blob.size(),
        };
        let part = match range.map(|range| range.resolve(size)).transpose() {
            Ok(part) => part,
            Err(_) => return answer::outside(size),
        };
        if *method == Method::HEAD {
            return answer::blob(digest, size, part, answer::empty());
        }
        let wanted = part.or(ByteRange::new(0, size));
        let body = match served {
            ServedBlob::Inline(content) => {
                let (from, to) = wanted.map_or((0, 0), |range| (range.offset(), range.end()));
                Ok(answer::full(content.bytes.slice(from as usize..to as usize)))
            }
            ServedBlob::Stored(blob) => self.send(self.puller.tail(blob, wanted)).await,
        };
        match body {
            Ok(body) => answer::blob(digest, size, part, body),
            Err(TailError::Failed(why)) => self.nothing(&PullError::GaveUp(why), range.is_some()),
            Err(TailError::Store(why)) => self.nothing(&PullError::Store(why), range.is_some()),
        }
    }

    /// A body whose first bytes are in hand.
    async fn send(&self, mut tail: Tail) -> Result<Body, TailError> {
        let first = tail.next().await?;
        let metrics = self.metrics.clone();
        metrics.open_bodies.inc();
        let open = Open(metrics.open_bodies.clone());
        let sending = Sending { tail, first, metrics, _open: open };
        let frames = stream::unfold(Some(sending), |sending| async {
            let mut sending = sending?;
            let next = match sending.first.take() {
                Some(first) => Ok(Some(first)),
                None => sending.tail.next().await,
            };
            match next {
                Ok(Some(bytes)) => {
                    sending.metrics.sent_bytes.inc_by(bytes.len() as u64);
                    Some((Ok(Frame::data(bytes)), Some(sending)))
                }
                Ok(None) => None,
                // An error closes the connection, and containerd resumes with a range.
                Err(why) => {
                    sending.metrics.broken_bodies.inc();
                    tracing::warn!(error = %why, "broke off a body");
                    Some((Err(why), None))
                }
            }
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }

    fn nothing(&self, why: &PullError, resumes: bool) -> Response<Body> {
        let response = answer::pull_error(why, resumes);
        tracing::info!(status = response.status().as_u16(), error = %why, "handed on");
        response
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
