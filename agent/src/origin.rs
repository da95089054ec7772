//! The origin, as the rest of the agent sees it: a few verbs over one `longshore-registry`.
//!
//! Owns the seam only. Behind it stand the gRPC and HTTP client and an origin in memory for
//! tests. It never decides whom to ask or when: that is the swarm's engine.

mod bytes;
mod client;
pub mod memory;
mod metrics;
mod session;

use std::time::Duration;

pub use client::{ClientConfig, OriginClient, OriginStatus};
pub use metrics::OriginMetrics;
pub use session::{JoinAs, Membership, Session, Sessions};

use ::bytes::Bytes;
use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{ByteRange, Digest, RepositoryName};

/// Events of a plan, in the order in which they were sent.
pub type PlanStream = BoxStream<'static, Result<rpc::PlanEvent, OriginError>>;
/// Bytes of a blob, in order.
pub type BlobStream = BoxStream<'static, Result<Bytes, OriginError>>;

/// What the origin does for a node. Every call ends within a bound of the implementation's.
#[async_trait]
pub trait Origin: Send + Sync + std::fmt::Debug + 'static {
    /// What images are made of.
    async fn plan(&self, request: rpc::PlanRequest) -> Result<PlanStream, OriginError>;

    /// Tells what this node holds and learns of peers.
    async fn announce(
        &self,
        request: rpc::AnnounceRequest,
    ) -> Result<rpc::AnnounceResponse, OriginError>;

    /// Asks for pieces to read from the store.
    async fn permit(&self, request: rpc::PermitRequest)
    -> Result<rpc::PermitResponse, OriginError>;

    /// Reads bytes of a blob from the store; exactly `range` or an error.
    async fn fetch(&self, fetch: Fetch) -> Result<BlobStream, OriginError>;
}

/// A read of the store.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Where the blob is a member.
    pub repository: RepositoryName,
    /// Which blob.
    pub digest: Digest,
    /// Which of its bytes.
    pub range: ByteRange,
    /// The tracker's leave; without one these are extra bytes, and counted as such.
    pub permit: Option<rpc::PiecePermit>,
}

/// Why the origin did not do it, by what the caller should do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OriginError {
    /// It has no such thing: hand the request to the next host.
    #[error("origin: {code}: {message}")]
    NotFound {
        /// OCI error code.
        code: String,
        /// The origin's words.
        message: String,
    },
    /// It refuses: ask with other credentials or hand the request on.
    #[error("origin: denied: {0}")]
    Denied(String),
    /// It has too much to do: ask again after this long, or elsewhere.
    #[error("origin: busy")]
    Busy {
        /// As it said, or a default.
        retry_after: Duration,
    },
    /// It can not be reached, or answers with faults: ask peers, ask again later.
    #[error("origin: unavailable: {0}")]
    Unavailable(String),
    /// What it said makes no sense.
    #[error("origin: invalid answer: {0}")]
    Invalid(String),
}
