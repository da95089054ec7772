//! The origin over the network: gRPC for plans, announces and permits, HTTP for the store's bytes.
//!
//! Owns one gRPC channel, one HTTP client and the session. Every call ends within a bound; a call
//! that the origin calls unauthenticated is made once more with a new session. Every answer has a
//! bound on its size. The session's worker ends with its token.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::planner_client::PlannerClient;
use longshore_proto::rpc::origin::tracker_client::TrackerClient;
use reqwest::Url;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::bytes::BytesReader;
use super::session::{JoinAs, Membership, Sessions};
use super::{BlobStream, Fetch, Origin, OriginError, OriginMetrics, PlanStream};

/// A dial that takes longer will not succeed in time for anyone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the answer to one unary call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two events of a plan, and before the first: well below the mirror's usual bound on a
/// first byte, so that there is time left to ask peers.
const EVENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Largest message: a plan's event with an inline manifest of 4 MiB, or the states of a blob of
/// 1 TiB in pieces of 4 MiB (8 MiB), with room.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Detects a connection that died without a word.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Where the origin says it is busy but not for how long.
const DEFAULT_RETRY: Duration = Duration::from_millis(500);

/// Which origin, and as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `http://host:port`
    pub url: Url,
    /// What a join tells of this node; addresses come later.
    pub join: JoinAs,
}

/// The client. Shared by all who ask the origin.
#[derive(Debug)]
pub struct OriginClient {
    planner: PlannerClient<Channel>,
    tracker: TrackerClient<Channel>,
    bytes: BytesReader,
    sessions: Arc<Sessions>,
}

/// How the membership stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginStatus {
    /// Whether there is a session that has not expired.
    pub joined: bool,
    /// Why not, in the last attempt's words.
    pub error: Option<String>,
    /// Zero when not joined.
    pub session_expires_in: Duration,
}

impl OriginClient {
    /// A client that connects when it is first used; blocks on nothing.
    pub fn new(config: &ClientConfig, metrics: OriginMetrics) -> Result<Self, OriginError> {
        let invalid = |error: tonic::transport::Error| OriginError::Invalid(error.to_string());
        let channel = Endpoint::from_shared(config.url.to_string())
            .map_err(invalid)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self {
            planner: PlannerClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            tracker: TrackerClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            bytes: BytesReader::new(config.url.clone(), CONNECT_TIMEOUT)?,
            sessions: Arc::new(Sessions::new(channel, config.join.clone(), metrics)),
        })
    }

    /// The membership, for status and for addresses that are known later.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Keeps the node joined until `shutdown`.
    pub async fn keep_joined(self: Arc<Self>, shutdown: CancellationToken) {
        self.sessions.keep(shutdown).await;
    }

    /// How the membership stands, for operators.
    pub fn status(&self) -> OriginStatus {
        match self.sessions.membership() {
            Membership::Joining => OriginStatus::default(),
            Membership::Joined(session) => OriginStatus {
                joined: !session.expires_in().is_zero(),
                error: None,
                session_expires_in: session.expires_in(),
            },
            Membership::Apart(error) => {
                OriginStatus { error: Some(error), ..OriginStatus::default() }
            }
        }
    }

    /// Makes a call with the session; when the origin does not know it, with the next one.
    async fn call<T, F>(&self, call: impl Fn(Request<()>) -> F) -> Result<Response<T>, OriginError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut again = true;
        loop {
            let session = self.sessions.current().await?;
            let mut request = Request::new(());
            request.metadata_mut().insert("authorization", session.header());
            let answer = tokio::time::timeout(CALL_TIMEOUT, call(request))
                .await
                .map_err(|_| OriginError::Unavailable("no answer in time".into()))?;
            match answer {
                Err(status) if status.code() == Code::Unauthenticated && again => {
                    self.sessions.refused(&session);
                    again = false;
                }
                other => return other.map_err(|status| origin_error(&status)),
            }
        }
    }
}

#[async_trait]
impl Origin for OriginClient {
    async fn plan(&self, request: rpc::PlanRequest) -> Result<PlanStream, OriginError> {
        let response = self
            .call(|with| {
                let mut planner = self.planner.clone();
                let request = with.map(|()| request.clone());
                async move { planner.plan(request).await }
            })
            .await?;
        let events = stream::unfold(Some(response.into_inner()), |events| async {
            let mut events = events?;
            match tokio::time::timeout(EVENT_TIMEOUT, events.next()).await {
                Ok(Some(Ok(event))) => Some((Ok(event), Some(events))),
                Ok(Some(Err(status))) => Some((Err(origin_error(&status)), None)),
                Ok(None) => None,
                Err(_) => {
                    let late = OriginError::Unavailable("plan stands still".into());
                    Some((Err(late), None))
                }
            }
        });
        Ok(events.boxed())
    }

    async fn announce(
        &self,
        request: rpc::AnnounceRequest,
    ) -> Result<rpc::AnnounceResponse, OriginError> {
        let response = self
            .call(|with| {
                let mut tracker = self.tracker.clone();
                let request = with.map(|()| request.clone());
                async move { tracker.announce(request).await }
            })
            .await?;
        Ok(response.into_inner())
    }

    async fn permit(
        &self,
        request: rpc::PermitRequest,
    ) -> Result<rpc::PermitResponse, OriginError> {
        let response = self
            .call(|with| {
                let mut tracker = self.tracker.clone();
                let request = with.map(|()| request.clone());
                async move { tracker.permit(request).await }
            })
            .await?;
        Ok(response.into_inner())
    }

    async fn fetch(&self, fetch: Fetch) -> Result<BlobStream, OriginError> {
        self.bytes.read(fetch).await
    }
}

/// What a gRPC status asks of the caller.
pub(super) fn origin_error(status: &Status) -> OriginError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => OriginError::NotFound { code: "NAME_UNKNOWN".into(), message },
        Code::PermissionDenied | Code::Unauthenticated => OriginError::Denied(message),
        Code::ResourceExhausted => OriginError::Busy { retry_after: DEFAULT_RETRY },
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::DataLoss => {
            OriginError::Invalid(message)
        }
        code => OriginError::Unavailable(format!("{code:?}: {message}")),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
