//! Pushes into a fronted repository: passed on, and acknowledged once the upstream has them.
//!
//! Nothing is written here before that. Bytes come from what the upload has stored, so a push that
//! the upstream refuses leaves an upload and no blob.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use longshore_proto::{Digest, Reference};

use super::Fronted;
use super::ask::Ask;
use super::error::UpstreamError;
use crate::config::PushMode;
use crate::storage::BlobStream;

impl Fronted {
    /// Whether pushes are passed on at all.
    pub(crate) fn takes_pushes(&self) -> bool {
        self.upstream.push == PushMode::Pass
    }

    /// Gives the upstream a blob, unless it has it.
    pub(crate) async fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        bytes: BlobStream,
    ) -> Result<(), UpstreamError> {
        let pushed = async {
            match self.upstream.client.blob_size(&self.remote, digest).await {
                Ok(_) => return Ok(()),
                Err(UpstreamError::NotFound | UpstreamError::BadAnswer(_)) => {}
                Err(error) => return Err(error),
            }
            let _place = self.upstream.client.place_for_bytes().await?;
            let ask = Ask::new(Method::POST, &self.remote, "blobs/uploads/".to_owned()).pushing();
            let opened = self.upstream.client.ask(&ask).await?;
            let location = opened.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let (StatusCode::ACCEPTED, Some(location)) = (opened.status(), location) else {
                return Err(UpstreamError::BadAnswer("it opens no upload".to_owned()));
            };
            let body = reqwest::Body::wrap_stream(bytes);
            let client = &self.upstream.client;
            client.put_bytes(&ask, location, &digest.to_string(), size, body).await
        };
        self.counted(pushed.await)
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
        ask.body = Some(content.clone());
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
