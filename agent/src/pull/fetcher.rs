//! What a pull needs of the swarm: a few verbs.
//!
//! Owns the seam only. Behind it stands the swarm; in tests, something that writes pieces.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, Reference, RepositoryName};

use super::ledger::BlobLedger;
use crate::store::StoredBlob;

/// A blob that is wanted.
#[derive(Clone, Debug)]
pub struct Want {
    /// Where its pieces go.
    pub blob: Arc<StoredBlob>,
    /// In which repository it is asked for.
    pub repository: RepositoryName,
    /// Lower first: the image's start, then the layer's place.
    pub order: u64,
    /// Where its bytes' sources are noted.
    pub ledger: Arc<BlobLedger>,
}

/// Fetches pieces into the store.
#[async_trait]
pub trait Fetcher: Send + Sync + std::fmt::Debug + 'static {
    /// Fetches what is missing, until the blob is whole, failed or unwanted.
    fn want(&self, want: Want);
    /// Nobody needs it any longer.
    fn unwant(&self, digest: Digest);
    /// A client waits at this piece; `None` when it waits for nothing of this blob any longer.
    fn cursor(&self, digest: Digest, client: u64, piece: Option<PieceIndex>);
    /// Peers that the origin named.
    fn meet(&self, peers: Vec<rpc::Peer>);
    /// Leave that the origin gave ahead of being asked.
    fn use_permits(&self, permits: Vec<rpc::PiecePermit>);
    /// A plan as a peer knows it, for [`crate::store::decode_relayed`]; ends within a bound.
    async fn ask_plan(&self, repository: &RepositoryName, reference: &Reference) -> Option<Bytes>;
}
