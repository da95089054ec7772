//! The operators' door: `longshore.control.v1` on a unix socket of mode 0600.
//!
//! Owns the socket and the calls; it shows what the agent is doing and changes nothing. Every call
//! has a deadline. It ends when its token is cancelled, and takes its socket with it.

mod socket;

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::ImageName;
use longshore_proto::rpc::control as rpc;
use longshore_proto::rpc::control::operator_server::{Operator, OperatorServer};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use socket::{ControlSocket, SocketError};

/// Where agent and CLI meet unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/longshore/agent.sock";
/// Largest answer: `explain` of an image with thousands of layers, with room.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Calls only read memory.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const CALLS_PER_CONNECTION_MAX: usize = 8;

/// What there is to see; the composition knows the rooms behind it.
pub trait View: Send + Sync + std::fmt::Debug + 'static {
    /// How the agent stands now.
    fn status(&self) -> rpc::StatusResponse;

    /// What became of an image; none when no pull of it is known.
    fn explain(&self, image: &ImageName) -> Option<rpc::ExplainResponse>;
}

/// Serves `view` until `shutdown`.
pub async fn serve(socket: ControlSocket, view: Arc<dyn View>, shutdown: CancellationToken) {
    let (listener, guard) = socket.into_parts();
    let operator = OperatorServer::new(Calls(view)).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let served = tonic::transport::Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .add_service(operator)
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        () = shutdown.cancelled() => {}
        ended = served => if let Err(error) = ended {
            tracing::error!(%error, "the control socket is closed");
        }
    }
    drop(guard);
}

#[derive(Debug)]
struct Calls(Arc<dyn View>);

#[tonic::async_trait]
impl Operator for Calls {
    async fn status(
        &self,
        _: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusResponse>, Status> {
        Ok(Response::new(self.0.status()))
    }

    async fn explain(
        &self,
        request: Request<rpc::ExplainRequest>,
    ) -> Result<Response<rpc::ExplainResponse>, Status> {
        let text = request.into_inner().image;
        let image: ImageName =
            text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let explained = self.0.explain(&image);
        explained
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("no pull of {image} since the agent started")))
    }
}

#[cfg(test)]
mod tests;
