//! The door, through the CLI's client.

use super::*;
use crate::cli;

#[derive(Debug)]
struct Known;

impl View for Known {
    fn status(&self) -> rpc::StatusResponse {
        rpc::StatusResponse { node_name: "node-1".into(), ..Default::default() }
    }

    fn explain(&self, image: &ImageName) -> Option<rpc::ExplainResponse> {
        let known = image.repository.as_str() == "known";
        known.then(|| rpc::ExplainResponse { image: image.to_string(), ..Default::default() })
    }
}

/// What `longshore ARGUMENTS` prints, or its exit code and line.
async fn longshore(socket: &std::path::Path, arguments: &[&str]) -> Result<String, (u8, String)> {
    let socket = format!("--socket={}", socket.display());
    let line = ["longshore", &socket].into_iter().chain(arguments.iter().copied());
    let line: Vec<_> = line.map(std::ffi::OsString::from).collect();
    tokio::task::spawn_blocking(move || cli::output_of(line)).await.unwrap()
}

#[tokio::test]
async fn an_operator_reads_status_and_images_over_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let shutdown = CancellationToken::new();
    let socket = ControlSocket::bind(&path).unwrap();
    let served = tokio::spawn(serve(socket, Arc::new(Known), shutdown.clone()));

    let status = longshore(&path, &["status"]).await.unwrap();
    assert!(status.starts_with("node-1  ready"), "{status}");
    let json = longshore(&path, &["explain", "r.example/known:v1", "--json"]).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["image"], "r.example/known:v1");
    let (code, line) = longshore(&path, &["explain", "r.example/other"]).await.unwrap_err();
    assert_eq!(
        (code, line.as_str()),
        (1, "no pull of r.example/other:latest since the agent started")
    );
    let (code, _) = longshore(&path, &["explain", "no-host"]).await.unwrap_err();
    assert_eq!(code, 64);

    shutdown.cancel();
    served.await.unwrap();
    assert!(!path.exists());
    let (code, line) = longshore(&path, &["status"]).await.unwrap_err();
    assert!(code == 69 && line.starts_with("no agent at "), "{line}");
}
