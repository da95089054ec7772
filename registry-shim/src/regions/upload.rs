//! A large object on its way, in parts. It stays with the store where it began: when that goes
//! away the client is told, and begins again on the other one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{
    MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::backlog::Owed;
use super::home::{Home, WRITE_MAX};
use super::journal::Op;
use super::side::{Which, is_answer};

/// An upload to one of the home's stores.
pub(super) struct RegionUpload {
    home: Arc<Home>,
    which: Which,
    key: Path,
    inner: Box<dyn MultipartUpload>,
    /// Of an upload to the primary, until it is known that nothing was written.
    owed: Option<Owed>,
}

impl fmt::Debug for RegionUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionUpload").field("which", &self.which).field("key", &self.key).finish()
    }
}

impl RegionUpload {
    pub(super) async fn begin(
        home: &Arc<Home>,
        key: &Path,
        how: PutMultipartOptions,
    ) -> Result<Self> {
        let begin = async |which: Which| {
            let side = home.side(which);
            let begun = side.store.put_multipart_opts(key, how.clone());
            side.call(home.timing.record, begun).await
        };
        if home.writes_to_primary(key) {
            match begin(Which::Primary).await {
                Ok(inner) => {
                    let owed = Some(home.owe(key).await);
                    let (home, key) = (home.clone(), key.clone());
                    return Ok(Self { home, which: Which::Primary, key, inner, owed });
                }
                Err(error) if is_answer(&error) || !home.replica.is_up() => return Err(error),
                Err(_) => {}
            }
        }
        let inner = begin(Which::Replica).await?;
        let (home, key) = (home.clone(), key.clone());
        Ok(Self { home, which: Which::Replica, key, inner, owed: None })
    }
}

#[async_trait]
impl MultipartUpload for RegionUpload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let (part, home, which) = (self.inner.put_part(bytes), self.home.clone(), self.which);
        Box::pin(async move { home.side(which).call(WRITE_MAX, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let side = self.home.side(self.which);
        if self.which == Which::Primary {
            let completed = side.call(WRITE_MAX, self.inner.complete()).await;
            drop(self.owed.take());
            return completed;
        }
        // The entry comes when the object does: a replay in between would find nothing.
        let ticket = self.home.enter(Op::Put, &self.key).await?;
        let completed = side.call(WRITE_MAX, self.inner.complete()).await;
        ticket.ended();
        completed
    }

    async fn abort(&mut self) -> Result<()> {
        if let Some(owed) = self.owed.take() {
            owed.forget();
        }
        let side = self.home.side(self.which);
        side.call(WRITE_MAX, self.inner.abort()).await
    }
}
