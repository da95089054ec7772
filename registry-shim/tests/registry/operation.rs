//! What operators see: health, metrics, a drain.

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{PATIENCE, TestRegistry, content, sha256, until};
use crate::program::Program;

async fn admin(registry: &TestRegistry, path: &str) -> (StatusCode, String) {
    let answer = registry.client.get(format!("http://{}{path}", registry.admin)).send().await;
    let answer = answer.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn health_and_metrics_are_told_on_the_admin_port_only() {
    let registry = TestRegistry::start().await;
    registry.get("/v2/").await;
    assert_eq!(admin(&registry, "/livez").await.0, StatusCode::OK);
    assert_eq!(admin(&registry, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(admin(&registry, "/other").await.0, StatusCode::NOT_FOUND);
    let (_, metrics) = admin(&registry, "/metrics").await;
    for line in [
        "longshore_registry_requests_total{route=\"base\",method=\"GET\",status=\"200\"} 1",
        "longshore_registry_connections 1",
        "longshore_registry_connections_accepted_total 1",
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
    ] {
        assert!(metrics.contains(&format!("\n{line}")), "{line} in {metrics}");
    }
    assert_eq!(registry.get("/metrics").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_store_that_does_not_work_is_not_ready() {
    let registry = TestRegistry::start().await;
    let store = registry.directory.path().join("store");
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::write(&store, "a file in its place").unwrap();
    let (status, why) = admin(&registry, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
    assert!(why.starts_with("storage: "), "{why}");
    assert_eq!(admin(&registry, "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_drain_finishes_the_pull_and_the_push_under_way() {
    let registry = TestRegistry::start().await;
    // Larger than all socket buffers, so that the pull is under way for as long as it is not read.
    let (pulled, pushed) = (content(32 << 20, 1), content(1 << 20, 2));
    registry.push_blob("apps/web", &pulled).await;

    let mut pull = TcpStream::connect(registry.address).await.unwrap();
    let digest = sha256(&pulled);
    let get = format!("GET /v2/apps/web/blobs/{digest} HTTP/1.1\r\nhost: a\r\n\r\n");
    pull.write_all(get.as_bytes()).await.unwrap();
    let mut first = [0; 1];
    pull.read_exact(&mut first).await.unwrap();

    let location = registry.begin_upload("apps/web").await;
    let mut push = TcpStream::connect(registry.address).await.unwrap();
    let (length, half) = (pushed.len(), pushed.len() / 2);
    let put = format!(
        "PUT {location}?digest={} HTTP/1.1\r\nhost: a\r\n\
         content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n",
        sha256(&pushed)
    );
    push.write_all(put.as_bytes()).await.unwrap();
    push.write_all(&pushed[..half]).await.unwrap();
    // The client's own connection is the third.
    let accepted = async {
        while registry.metric("longshore_registry_connections_accepted_total").await < 3 {}
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
    let received = async {
        let all = (pulled.len() + half) as u64;
        while registry.metric("longshore_registry_received_bytes_total").await < all {}
    };
    tokio::time::timeout(PATIENCE, received).await.unwrap();

    registry.begin_shutdown();
    let refused = async {
        while TcpStream::connect(registry.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let draining = (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    assert_eq!(admin(&registry, "/readyz").await, draining);

    push.write_all(&pushed[half..]).await.unwrap();
    let mut answer = Vec::new();
    push.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer));
    let mut rest = Vec::new();
    pull.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&pulled));
    tokio::time::timeout(PATIENCE, registry.stop()).await.unwrap();
}

#[tokio::test]
async fn the_access_log_says_who_asked_what_and_how_it_ended() {
    let quiet = Program::start(&[]);
    let program =
        Program::start(&["--log-filter=info,access=debug", "--limits-trusted-proxies=127.0.0.0/8"]);
    let get = async |program: &Program, path: &str| {
        let request = program.client.get(format!("http://{}{path}", program.address));
        let request =
            request.header("x-request-id", "build-7").header("x-forwarded-for", "192.0.2.7");
        request.header("authorization", "Basic c2VjcmV0").send().await.unwrap();
    };
    get(&quiet, "/v2/").await;
    get(&program, "/v2/").await;
    get(&program, "/v2/apps/web/manifests/v1?ns=here").await;
    until("two lines", async || program.lines("access").len() == 2).await;
    let lines = program.lines("access");
    for (line, path, status) in
        [(&lines[0], "/v2/", 200), (&lines[1], "/v2/apps/web/manifests/v1", 404)]
    {
        assert_eq!(line["level"], "DEBUG", "{line}");
        let (fields, span) = (&line["fields"], &line["span"]);
        assert_eq!((&fields["client"], &fields["status"]), (&"192.0.2.7".into(), &status.into()));
        assert!(fields["ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{line}");
        assert_eq!((&span["method"], &span["path"]), (&"GET".into(), &path.into()), "{line}");
        assert_eq!(span["id"], "build-7", "{line}");
        assert!(!line.to_string().contains("c2VjcmV0"), "{line}");
    }
    assert!(lines[1]["fields"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{}", lines[1]);
    assert_eq!(quiet.lines("access").len(), 0, "off unless it is asked for");
}
