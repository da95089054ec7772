//! A push's bytes on their way to the upstream while they come from its client.
//!
//! A relay follows one upload of a client: each of its requests becomes one PATCH there. It is a
//! shortcut and never the only way: whatever goes wrong ends it, and the closing request sends the
//! whole blob from the store. Nothing is visible at the upstream before [`Fronted::push_blob`]
//! closes the upload there with a digest that was verified here.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::try_unfold;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};
use http::{Method, StatusCode};
use longshore_proto::Digest;
use reqwest::{Body, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::Fronted;
use super::answer::STALL_TIMEOUT;
use super::ask::{Ask, Payload};
use super::client::location;
use super::error::UpstreamError;

/// Frames of a body between its client and the upstream.
const FRAMES_MAX: usize = 4;
/// For the upstream's word that it has all bytes of a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A request may take as long as its client does: stalls are bounded, and sessions end.
const PATCH_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Where an upload stands at the upstream between two requests of its client. Its location may bear
/// a signature and is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relay {
    location: String,
    /// Bytes that the upstream has.
    pub(super) offset: u64,
}

/// What one request of the client brings.
#[derive(Debug)]
pub(crate) struct Relaying {
    fronted: Fronted,
    /// What the client says that it brings.
    length: Option<u64>,
    /// What it will be, when that is said.
    digest: Option<Digest>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing has come yet.
    Waiting(Option<Relay>),
    Sending(Sending),
    /// The closing request sends everything, or fails for this reason at once.
    Over(Result<(), UpstreamError>),
}

#[derive(Debug)]
struct Sending {
    frames: mpsc::Sender<Frame>,
    patch: AbortOnDropHandle<Result<Option<Relay>, UpstreamError>>,
}

/// An end that is said: a client that breaks off must not look like one that is done.
enum Frame {
    Bytes(Bytes),
    End,
}

impl Relay {
    /// As [`Relay::to_text`] gave it; nothing of a form that this version does not know.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// To be kept with the upload's progress.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a text and a number")
    }

    pub(super) fn url(&self) -> Result<Url, UpstreamError> {
        Url::parse(&self.location).map_err(|_| no_location())
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Fronted {
    /// For a request that brings bytes from `offset` on, behind what `relay` brought before. With a
    /// `digest` the upstream is asked first whether it has that blob.
    pub(crate) fn relaying(
        &self,
        relay: Option<Relay>,
        offset: u64,
        length: Option<u64>,
        digest: Option<Digest>,
    ) -> Relaying {
        let state = match relay {
            Some(relay) if relay.offset == offset => State::Waiting(Some(relay)),
            // A request broke off: nobody knows what of it arrived there.
            Some(relay) => {
                self.give_up(relay);
                State::Over(Ok(()))
            }
            None if offset == 0 => State::Waiting(None),
            None => State::Over(Ok(())),
        };
        Relaying { fronted: self.clone(), length, digest, state }
    }

    /// Tells the upstream that an upload does not go on, without waiting for its word.
    pub(crate) fn give_up(&self, relay: Relay) {
        let (fronted, ended) = (self.clone(), self.upstream.shared.ended.clone());
        let cancel = async move {
            let Ok(url) = relay.url() else { return };
            let ask = Ask::upload(Method::DELETE, &fronted.remote, url, Payload::None, None);
            if let Some(Err(error)) =
                ended.run_until_cancelled(fronted.upstream.client.ask(&ask)).await
            {
                tracing::debug!(%error, "upload at the upstream is left to expire");
            }
        };
        self.upstream.shared.tasks.spawn(cancel.in_current_span());
    }

    /// An upload at the upstream.
    pub(super) async fn open_upload(&self) -> Result<Relay, UpstreamError> {
        let ask = Ask::new(Method::POST, &self.remote, "blobs/uploads/".to_owned()).pushing();
        let opened = self.upstream.client.ask(&ask).await?;
        if opened.status() != StatusCode::ACCEPTED {
            return Err(UpstreamError::BadAnswer("it opens no upload".to_owned()));
        }
        let location = location(opened.url(), &opened).ok_or_else(no_location)?;
        Ok(Relay { location: location.into(), offset: 0 })
    }

    /// Whether an upload stands where it should. By this the credentials are fresh, too: bytes
    /// that go on as they come cannot be sent again with others.
    async fn check_upload(&self, relay: &Relay) -> Result<(), UpstreamError> {
        let mut ask = Ask::upload(Method::GET, &self.remote, relay.url()?, Payload::None, None);
        ask.headers.clear();
        let status = match self.upstream.client.ask(&ask).await {
            Ok(status) => status,
            // Not every registry tells.
            Err(UpstreamError::Refused { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let range = status.headers().get(RANGE).and_then(|range| range.to_str().ok());
        let last = range.and_then(|range| range.rsplit('-').next()?.parse::<u64>().ok());
        match last {
            Some(last) if last.saturating_add(1) != relay.offset => {
                Err(UpstreamError::BadAnswer("upload has other bytes than were sent".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// One PATCH of all frames; `None` when the upstream has the blob already.
    async fn patch(
        &self,
        relay: Option<Relay>,
        length: Option<u64>,
        digest: Option<Digest>,
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Option<Relay>, UpstreamError> {
        let client = &self.upstream.client;
        let relay = match relay {
            Some(relay) => {
                self.check_upload(&relay).await?;
                relay
            }
            None => {
                if let Some(digest) = digest
                    && client.blob_size(&self.remote, &digest).await.is_ok()
                {
                    return Ok(None);
                }
                self.open_upload().await?
            }
        };
        let _place = client.place_for_bytes().await?;
        let sent = Arc::new(AtomicU64::new(0));
        let payload = Payload::Once(Mutex::new(Some(body(frames, sent.clone()))));
        let (url, offset) = (relay.url()?, relay.offset);
        let mut ask = Ask::upload(Method::PATCH, &self.remote, url.clone(), payload, length);
        if let Some(length @ 1..) = length {
            let range = HeaderValue::from_str(&format!("{offset}-{}", offset + length - 1));
            ask.headers.insert(CONTENT_RANGE, range.expect("numbers are a header value"));
        }
        let answer = client.transfer(&ask, PATCH_TIMEOUT).await?;
        if answer.status() != StatusCode::ACCEPTED {
            let said = format!("it says {} to a chunk", answer.status().as_u16());
            return Err(UpstreamError::BadAnswer(said));
        }
        // Without another location the upload stays where it was.
        let location = location(&url, &answer).unwrap_or(url);
        let sent = sent.load(Ordering::Relaxed);
        Ok(Some(Relay { location: location.into(), offset: offset + sent }))
    }
}

fn body(frames: mpsc::Receiver<Frame>, sent: Arc<AtomicU64>) -> Body {
    Body::wrap_stream(try_unfold((frames, sent), |(mut frames, sent)| async move {
        match frames.recv().await {
            Some(Frame::Bytes(bytes)) => {
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Some((bytes, (frames, sent))))
            }
            Some(Frame::End) => Ok(None),
            None => Err(std::io::Error::other("the client broke off")),
        }
    }))
}

impl Relaying {
    /// Takes bytes on. An upstream that does not take them within a while is given up.
    pub(crate) async fn send(&mut self, bytes: Bytes) {
        if let State::Waiting(relay) = &mut self.state {
            let relay = relay.take();
            self.state = State::Sending(self.begin(relay));
        }
        let State::Sending(sending) = &self.state else { return };
        let sent = sending.frames.send_timeout(Frame::Bytes(bytes), STALL_TIMEOUT).await;
        match sent {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                self.state = State::Over(Ok(()));
                self.broken(&UpstreamError::TimedOut);
            }
            // It ended before the body did: its reason is there.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => {
                let ended = self.ended().await;
                self.state = State::Over(ended.map(drop));
            }
        }
    }

    /// Where the upload stands there when this request has brought everything; `None` where the
    /// closing request sends it. An error: the upstream does not let this registry push.
    pub(crate) async fn finish(mut self) -> Result<Option<Relay>, UpstreamError> {
        match &mut self.state {
            State::Waiting(relay) => Ok(relay.take()),
            State::Over(how) => how.clone().map(|()| None),
            State::Sending(sending) => {
                // A patch that has ended says why by itself.
                let _ = sending.frames.send_timeout(Frame::End, STALL_TIMEOUT).await;
                self.ended().await
            }
        }
    }

    fn begin(&self, relay: Option<Relay>) -> Sending {
        let (frames, coming) = mpsc::channel(FRAMES_MAX);
        let (fronted, length, digest) = (self.fronted.clone(), self.length, self.digest);
        let patch = async move { fronted.patch(relay, length, digest, coming).await };
        let patch = AbortOnDropHandle::new(tokio::spawn(patch.in_current_span()));
        Sending { frames, patch }
    }

    async fn ended(&mut self) -> Result<Option<Relay>, UpstreamError> {
        let State::Sending(sending) = &mut self.state else { return Ok(None) };
        let ended = tokio::time::timeout(ANSWER_TIMEOUT, &mut sending.patch).await;
        let ended = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(UpstreamError::Ended),
            Err(_) => Err(UpstreamError::TimedOut),
        };
        match ended {
            Ok(relay) => {
                self.fronted.upstream.metrics.relayed("ok");
                Ok(relay)
            }
            Err(UpstreamError::Denied) => Err(UpstreamError::Denied),
            Err(error) => {
                self.broken(&error);
                Ok(None)
            }
        }
    }

    fn broken(&self, error: &UpstreamError) {
        let upstream = self.fronted.upstream.prefix();
        tracing::warn!(%upstream, %error, "push is sent to the upstream at its end");
        self.fronted.upstream.metrics.relayed(error.outcome());
    }
}

fn no_location() -> UpstreamError {
    UpstreamError::BadAnswer("upload has no location".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_kept_as_text_and_never_printed() {
        let relay = Relay { location: "https://u.example/up?_state=secret".to_owned(), offset: 7 };
        assert_eq!(Relay::from_text(&relay.to_text()), Some(relay.clone()));
        assert_eq!(Relay::from_text("{\"offset\":7}"), None);
        let printed = format!("{relay:?}");
        assert!(printed.contains('7') && !printed.contains("secret"), "{printed}");
    }
}
