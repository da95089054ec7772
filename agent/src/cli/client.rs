//! One connection to the agent's socket, one call, each failure in an operator's words.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use longshore_proto::ImageName;
use longshore_proto::rpc::control as rpc;
use longshore_proto::rpc::control::operator_client::OperatorClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::control::MESSAGE_BYTES_MAX;

/// For connecting, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unknown(String),
    #[error("no agent at {0}: is longshore-agent running? (--socket names another place)")]
    NoAgent(PathBuf),
    #[error("{0}: permission denied: the agent's socket is for its own user, mostly root")]
    Denied(PathBuf),
    #[error("the agent does not answer within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("{0}")]
    Fault(String),
}

impl ClientError {
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Unknown(_) => 1,
            Self::Usage(_) => 64,
            Self::NoAgent(_) | Self::Late => 69,
            Self::Fault(_) => 70,
            Self::Denied(_) => 77,
        }
    }
}

#[derive(Debug)]
pub(super) struct Client(OperatorClient<Channel>);

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream =
            within(UnixStream::connect(socket)).await?.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoAgent(socket.to_owned())
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
                _ => ClientError::Fault(format!("{}: {error}", socket.display())),
            })?;
        // The one connection is made already; tonic asks for it once.
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        });
        // The name is never resolved; some servers refuse a path as an authority.
        let endpoint = Endpoint::from_static("http://longshore-agent").timeout(TIMEOUT);
        let channel = within(endpoint.connect_with_connector(connector))
            .await?
            .map_err(|error| ClientError::Fault(error.to_string()))?;
        Ok(Self(OperatorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)))
    }

    pub(super) async fn status(mut self) -> Result<rpc::StatusResponse, ClientError> {
        let answer = self.0.status(rpc::StatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| client_error(&status))
    }

    pub(super) async fn explain(
        mut self,
        image: &ImageName,
    ) -> Result<rpc::ExplainResponse, ClientError> {
        let answer = self.0.explain(rpc::ExplainRequest { image: image.to_string() }).await;
        answer.map(tonic::Response::into_inner).map_err(|status| client_error(&status))
    }
}

async fn within<F: Future>(future: F) -> Result<F::Output, ClientError> {
    tokio::time::timeout(TIMEOUT, future).await.map_err(|_| ClientError::Late)
}

fn client_error(status: &Status) -> ClientError {
    match status.code() {
        Code::NotFound => ClientError::Unknown(status.message().to_owned()),
        Code::InvalidArgument => ClientError::Usage(status.message().to_owned()),
        Code::DeadlineExceeded | Code::Cancelled => ClientError::Late,
        code => ClientError::Fault(format!("the agent failed: {code:?}: {}", status.message())),
    }
}
