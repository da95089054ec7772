//! An answer's body, and the request's place among those under way, which it gives back at its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::api::Body;
use crate::limits::Place;
use crate::serve::BoxError;

/// A body that holds its request's place until it has gone.
#[derive(Debug)]
pub(crate) struct Held {
    body: Body,
    _place: Option<Place>,
}

impl Held {
    pub(super) const fn new(body: Body, place: Option<Place>) -> Self {
        Self { body, _place: place }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
