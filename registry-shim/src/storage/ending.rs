//! The end of an upload: it comes once, whatever the store can do.
//!
//! Whoever ends an upload owns its segments: a second commit or a late cancel would take bytes from
//! a blob. So an end is claimed first. A session that is gone by then had another end: the session
//! is deleted before the end is.

use bytes::Bytes;
use uuid::Uuid;

use super::{Progress, Session, Storage, StorageError, UploadError, layout};

impl Storage {
    /// Whether this call is the one that ends the upload.
    pub(super) async fn claim_end(&self, session: &Session) -> Result<bool, StorageError> {
        let Some(claim) = self.write_end(session).await? else { return Ok(false) };
        if self.exists(&layout::upload_session(session.id)).await? {
            return Ok(true);
        }
        self.delete(&claim).await?;
        Ok(false)
    }

    /// The key under which the end is claimed; `None` when another claim stands. A store that
    /// overwrites what should be created keeps one claim per caller, and a caller who sees another
    /// one gives way: of two, the one that was written last sees the other. Perhaps both give way,
    /// and the clients try again.
    async fn write_end(
        &self,
        session: &Session,
    ) -> Result<Option<object_store::path::Path>, StorageError> {
        let end = layout::upload_end(session.id);
        let own = Uuid::new_v4().simple().to_string();
        if self.capabilities().conditional_create {
            return Ok(self.claim_key(&end, own.into()).await?.then_some(end));
        }
        let mine = end.clone().join(own);
        self.overwrite(&mine, Bytes::new()).await?;
        if self.keys(&end).await? == [mine.clone()] {
            return Ok(Some(mine));
        }
        self.delete(&mine).await?;
        Ok(None)
    }

    /// Forgets an upload that has ended. Its end goes last, and the session first, so that no rest
    /// of it can be taken for an upload that goes on.
    pub async fn forget_upload(&self, session: &Session) -> Result<(), StorageError> {
        self.delete(&layout::upload_session(session.id)).await?;
        let end = layout::upload_end(session.id);
        let keys = self.keys(&layout::upload(session.id)).await?;
        let (ends, rest): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.prefix_matches(&end));
        for key in rest.into_iter().chain(ends) {
            self.delete(&key).await?;
        }
        Ok(())
    }

    /// Forgets an upload and its bytes.
    pub async fn cancel_upload(
        &self,
        session: &Session,
        progress: &Progress,
    ) -> Result<(), UploadError> {
        if !self.claim_end(session).await? {
            return Err(UploadError::Raced);
        }
        self.discard(progress.segments()).await;
        Ok(self.forget_upload(session).await?)
    }
}
