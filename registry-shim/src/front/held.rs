//! An answer's body, and the request's place among those under way, which it gives back at its end.
//! Where its client has a share of bytes it leaves in pieces, each when it may.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::FutureExt as _;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::api::Body;
use crate::limits::{PIECE_BYTES, Pace, Place};
use crate::serve::BoxError;

/// A body that holds its request's place until it has gone.
#[derive(Debug)]
pub(crate) struct Held {
    body: Body,
    _place: Option<Place>,
    /// Rare: boxed, so that everybody else's body stays small.
    paced: Option<Box<Paced>>,
}

#[derive(Debug)]
struct Paced {
    pace: Pace,
    /// Until the next piece may leave.
    sleep: Option<Pin<Box<Sleep>>>,
    /// It has waited.
    may_go: bool,
    /// Came with the last piece and has not left.
    rest: Bytes,
}

type Answer = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl Held {
    pub(super) const fn new(body: Body, place: Option<Place>) -> Self {
        Self { body, _place: place, paced: None }
    }

    /// At its client's pace, where there is one.
    pub(super) fn paced(body: Body, place: Place, pace: Option<Pace>) -> Self {
        let paced = |pace| Box::new(Paced { pace, sleep: None, may_go: false, rest: Bytes::new() });
        Self { body, _place: Some(place), paced: pace.map(paced) }
    }
}

impl Paced {
    /// Others of the client move bytes meanwhile; it waits once for each piece all the same, since
    /// each piece makes the next one wait longer.
    fn poll_frame(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Answer {
        if !self.may_go {
            if self.sleep.is_none() {
                let sleep = |at| Box::pin(tokio::time::sleep_until(at));
                self.sleep = self.pace.next_at().map(sleep);
            }
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.poll_unpin(cx));
                self.sleep = None;
            }
            self.may_go = true;
        }
        self.poll_piece(body, cx)
    }

    fn poll_piece(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Answer {
        if self.rest.is_empty() {
            let next = ready!(http_body::Body::poll_frame(Pin::new(body), cx));
            match next.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.rest = bytes,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        self.pace.moved(piece.len());
        self.may_go = false;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Answer {
        let this = &mut *self;
        match &mut this.paced {
            Some(paced) => paced.poll_frame(&mut this.body, cx),
            None => Pin::new(&mut this.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.paced.as_ref().is_none_or(|paced| paced.rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::BodyExt as _;
    use prometheus_client::metrics::counter::Counter;
    use tokio::time::Instant;

    use super::*;
    use crate::config::limits::Limits;
    use crate::limits::Pacer;

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn a_paced_body_leaves_whole_in_small_pieces_at_its_rate() {
        let limits = Limits { client_bytes_per_s: MIB as u64, ..Limits::default() };
        let pacer = Pacer::new(&limits, Counter::default()).unwrap();
        let content: Vec<u8> = (0..5 * MIB).map(|i| (i % 251) as u8).collect();
        // As they come from a store: one larger than a piece, and one that is not.
        let chunks = [&content[..4 * MIB], &content[4 * MIB..]].map(Bytes::copy_from_slice);
        let stream = futures::stream::iter(chunks.map(Ok)).boxed();
        let body = Body::Blob(stream, Counter::default());
        let pace = pacer.of(None, [192, 0, 2, 1].into());
        let mut held = Held { body, _place: None, paced: None };
        held.paced = pace
            .map(|pace| Box::new(Paced { pace, sleep: None, may_go: false, rest: Bytes::new() }));
        let began = Instant::now();
        let mut came = Vec::new();
        while let Some(frame) = held.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES, "{}", piece.len());
            came.extend_from_slice(&piece);
            let rate = came.len() as f64 / (began.elapsed().as_secs_f64() + 0.07);
            assert!(rate <= 1.01 * MIB as f64, "{rate} bytes/s after {}", came.len());
        }
        assert!(came == content);
        let took = began.elapsed().as_secs_f64();
        assert!((4.9..5.1).contains(&took), "{took} s");
    }
}
