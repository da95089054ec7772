//! Every piece from the origin, in order: what fetches until the swarm's driver takes its place.
//!
//! Owns one task per wanted blob, bounded in its requests; all end with the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, Reference, RepositoryName};
use tokio_util::sync::CancellationToken;

use crate::origin::{Fetch, Origin, OriginError};
use crate::pull::fetcher::{Fetcher, Want};
use crate::pull::ledger::OriginReason;
use crate::store::{BlobFailure, WriteError};

const REQUESTS_PER_BLOB: usize = 2;
const ATTEMPTS: u32 = 5;
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Direct {
    origin: Arc<dyn Origin>,
    shutdown: CancellationToken,
    wanted: Mutex<HashMap<Digest, CancellationToken>>,
}

impl Direct {
    pub(super) fn new(origin: Arc<dyn Origin>, shutdown: CancellationToken) -> Self {
        Self { origin, shutdown, wanted: Mutex::default() }
    }
}

#[async_trait]
impl Fetcher for Direct {
    fn want(&self, want: Want) {
        let end = self.shutdown.child_token();
        let digest = want.blob.digest();
        let mut wanted = self.wanted.lock().expect("nothing panics while it holds the table");
        if wanted.contains_key(&digest) {
            return;
        }
        wanted.insert(digest, end.clone());
        let origin = Arc::clone(&self.origin);
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                fetched = all(&*origin, &want) => if let Err(why) = fetched {
                    want.blob.fail(why);
                }
            }
        });
    }

    fn unwant(&self, digest: Digest) {
        let mut wanted = self.wanted.lock().expect("nothing panics while it holds the table");
        if let Some(end) = wanted.remove(&digest) {
            end.cancel();
        }
    }

    fn cursor(&self, _: Digest, _: u64, _: Option<PieceIndex>) {}

    fn meet(&self, _: Vec<rpc::Peer>) {}

    fn use_permits(&self, _: Vec<rpc::PiecePermit>) {}

    async fn ask_plan(&self, _: &RepositoryName, _: &Reference) -> Option<Bytes> {
        None
    }
}

async fn all(origin: &dyn Origin, want: &Want) -> Result<(), BlobFailure> {
    let missing: Vec<_> = want.blob.held().missing().collect();
    stream::iter(missing)
        .map(|piece| one(origin, want, piece))
        .buffered(REQUESTS_PER_BLOB)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await
}

async fn one(origin: &dyn Origin, want: &Want, piece: PieceIndex) -> Result<(), BlobFailure> {
    for _ in 0..ATTEMPTS {
        match read(origin, want, piece).await {
            Ok(bytes) => {
                let length = bytes.len() as u64;
                match want.blob.write(piece, bytes).await {
                    Ok(_) => {
                        want.ledger.from_origin(OriginReason::Direct, length);
                        return Ok(());
                    }
                    Err(WriteError::Full) => return Err(BlobFailure::Full),
                    Err(error) => tracing::warn!(%error, "a piece from the origin"),
                }
            }
            Err(OriginError::NotFound { .. }) => return Err(BlobFailure::NotFound),
            Err(OriginError::Denied(why)) => return Err(BlobFailure::Denied(why)),
            Err(error) => tracing::warn!(%error, "a piece from the origin"),
        }
        tokio::time::sleep(RETRY).await;
    }
    Err(BlobFailure::NoProgress(RETRY * ATTEMPTS))
}

async fn read(origin: &dyn Origin, want: &Want, piece: PieceIndex) -> Result<Bytes, OriginError> {
    let range = want.blob.list().list.range(piece).expect("a missing piece is one of the list");
    let fetch = Fetch {
        repository: want.repository.clone(),
        digest: want.blob.digest(),
        range,
        permit: None,
    };
    let parts = origin.fetch(fetch).await?;
    let bytes = parts.try_fold(BytesMut::new(), |mut sum, part| async move {
        sum.extend_from_slice(&part);
        Ok(sum)
    });
    bytes.await.map(BytesMut::freeze)
}
