//! Pushes into a fronted repository: passed on, and acknowledged once the upstream has them.
//!
//! Nothing is written here before that. What a relay brought while the client sent it is closed;
//! otherwise bytes come from what the upload has stored. A push that the upstream refuses leaves an
//! upload and no blob. Equal pushes at one time are one.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use longshore_proto::{Digest, Reference};

use super::Fronted;
use super::ask::{Ask, Payload};
use super::error::UpstreamError;
use super::relay::Relay;
use crate::config::PushMode;
use crate::storage::BlobStream;

/// For a blob, and more for each second that its bytes take at the least rate.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
const PUSH_BYTES_PER_S_MIN: u64 = 1024 * 1024;

/// Opens the bytes that a push has stored, each time anew.
pub(crate) type Stored = Box<dyn Fn() -> BlobStream + Send + Sync>;

impl Fronted {
    /// Whether pushes are passed on at all.
    pub(crate) fn takes_pushes(&self) -> bool {
        self.upstream.push == PushMode::Pass
    }

    /// How long a pusher waits for [`Self::push_blob`].
    pub(crate) fn push_wait(&self) -> Duration {
        self.upstream.shared.push_wait
    }

    /// Gives the upstream a verified blob, unless it has it. It goes on when the caller goes away.
    pub(crate) async fn push_blob(
        &self,
        digest: Digest,
        size: u64,
        relay: Option<Relay>,
        stored: Stored,
    ) -> Result<(), UpstreamError> {
        let this = self.clone();
        let push = async move {
            let key = (this.repository.clone(), digest);
            let pushes = this.upstream.pushes.clone();
            let work = async {
                let pushed = this.give_blob(digest, size, relay, &stored).await;
                this.counted(pushed)
            };
            let pushed = pushes.try_get_with(key, work).await.map_err(|error| (*error).clone());
            if pushed.is_ok() {
                this.disbelieve(&digest.to_string()).await;
            }
            pushed
        };
        self.detached(Box::pin(push)).await
    }

    async fn give_blob(
        &self,
        digest: Digest,
        size: u64,
        relay: Option<Relay>,
        stored: &Stored,
    ) -> Result<(), UpstreamError> {
        if let Some(relay) = relay.filter(|relay| relay.offset == size) {
            match self.close_upload(&relay, &digest, Payload::None, 0).await {
                Ok(()) => return Ok(()),
                Err(UpstreamError::Denied) => return Err(UpstreamError::Denied),
                // It may have closed all the same: that is asked next.
                Err(error) => {
                    let upstream = self.upstream.prefix();
                    tracing::warn!(%upstream, %error, "what was relayed is sent again");
                }
            }
        }
        match self.upstream.client.blob_size(&self.remote, &digest).await {
            Ok(_) => return Ok(()),
            Err(UpstreamError::NotFound | UpstreamError::BadAnswer(_)) => {}
            Err(error) => return Err(error),
        }
        let _place = self.upstream.client.place_for_bytes().await?;
        let opened = self.open_upload().await?;
        let body = || reqwest::Body::wrap_stream(stored());
        self.close_upload(&opened, &digest, Payload::Again(&body), size).await
    }

    /// The last request of an upload there, with `length` more bytes.
    async fn close_upload(
        &self,
        relay: &Relay,
        digest: &Digest,
        payload: Payload<'_>,
        length: u64,
    ) -> Result<(), UpstreamError> {
        let mut url = relay.url()?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let ask = Ask::upload(Method::PUT, &self.remote, url, payload, Some(length));
        let within = PUSH_TIMEOUT + Duration::from_secs(length / PUSH_BYTES_PER_S_MIN);
        match self.upstream.client.transfer(&ask, within).await?.status() {
            StatusCode::CREATED => Ok(()),
            other => Err(UpstreamError::BadAnswer(format!("upload ends with {}", other.as_u16()))),
        }
    }

    /// Gives the upstream a manifest.
    pub(crate) async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        content: &Bytes,
    ) -> Result<(), UpstreamError> {
        let path = format!("manifests/{reference}");
        let mut ask = Ask::new(Method::PUT, &self.remote, path).pushing();
        if let Ok(value) = HeaderValue::from_str(media_type) {
            ask.headers.insert(CONTENT_TYPE, value);
        }
        ask.payload = Payload::Whole(content.clone());
        let pushed = self.upstream.client.ask(&ask).await.map(drop);
        if pushed.is_ok() {
            self.forget(reference).await;
        }
        self.counted(pushed)
    }

    /// What was believed of it is over.
    async fn forget(&self, reference: &Reference) {
        if let Reference::Tag(tag) = reference {
            self.upstream.tags.invalidate(&(self.repository.clone(), tag.clone())).await;
        }
        self.disbelieve(&reference.to_string()).await;
    }

    fn counted(&self, pushed: Result<(), UpstreamError>) -> Result<(), UpstreamError> {
        self.upstream.metrics.pushed(match &pushed {
            Ok(()) => "ok",
            Err(error) => error.outcome(),
        });
        pushed
    }
}
