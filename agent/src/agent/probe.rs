//! One request to our own mirror, as containerd would make it: hosts.toml follows only when the
//! port answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::containerd::{MirrorSecret, reachable};

/// The answer needs nothing but a running task.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks `/v2/`, which the mirror answers by itself.
pub(super) async fn mirror_answers(
    address: SocketAddr,
    secret: Option<&MirrorSecret>,
) -> io::Result<()> {
    let asked = tokio::time::timeout(TIMEOUT, ask(reachable(address), secret)).await;
    match asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        StatusCode::OK => Ok(()),
        status => Err(io::Error::other(format!("it says {status}"))),
    }
}

async fn ask(address: SocketAddr, secret: Option<&MirrorSecret>) -> io::Result<StatusCode> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/v2/").header(header::HOST, address.to_string());
    let request = match secret {
        Some(secret) => request.header(header::AUTHORIZATION, secret.authorization()),
        None => request,
    };
    let request = request.body(Body::empty()).map_err(io::Error::other)?;
    tokio::select! {
        answer = sender.send_request(request) => answer.map(|answer| answer.status()),
        ended = connection => ended.and(Ok(StatusCode::BAD_GATEWAY)),
    }
    .map_err(io::Error::other)
}
