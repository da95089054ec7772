//! Traces of the program, as a collector gets them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(30);

/// A collector that hands on what it gets.
struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter();
        let spans = scopes.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        spans.for_each(|span| self.0.send(span).unwrap());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<Span>) {
    let (sender, spans) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = TraceServiceServer::new(Collector(sender));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    (address, spans)
}

struct Program {
    child: Child,
    address: String,
    _directory: tempfile::TempDir,
}

impl Program {
    fn start(collector: SocketAddr, sampled: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("signing.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
        command.env_clear().args(["serve", "--log-format=json", "--storage-url=memory:"]);
        command.args(["--serve-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.arg(format!("--identity-signing-key-file={}", key.display()));
        command.arg(format!("--telemetry-otlp-endpoint=http://{collector}"));
        command.arg(format!("--telemetry-sampled-per-10000={sampled}"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = log
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|said| !said["fields"]["admin"].is_null())
            .expect("it says where it serves");
        std::thread::spawn(move || log.for_each(drop));
        let address = said["fields"]["address"].as_str().unwrap().to_owned();
        Self { child, address, _directory: directory }
    }

    async fn get(&self, traceparent: Option<&str>) -> u16 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("http://{}/v2/", self.address));
        let request = match traceparent {
            Some(value) => request.header("traceparent", value),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    }

    /// SIGTERM, and its end.
    async fn end(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_joins_its_clients_trace_and_is_sent_by_the_end() {
    let (address, mut spans) = collector().await;
    let program = Program::start(address, 0);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    assert_eq!(program.get(Some(&parent)).await, 200);
    assert_eq!(program.get(None).await, 200, "no trace of its own: none is sampled");
    assert_eq!(program.get(Some("00-nonsense")).await, 200);
    assert_eq!(program.end().await, Some(0));
    let span = tokio::time::timeout(PATIENCE, spans.recv()).await.unwrap().unwrap();
    assert_eq!((span.name.as_str(), hex::encode(&span.trace_id).as_str()), ("request", trace));
    assert_eq!(hex::encode(&span.parent_span_id), "b7ad6b7169203331");
    assert!(spans.try_recv().is_err(), "one was sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nobody() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = taken.local_addr().unwrap();
    drop(taken);
    let program = Program::start(nobody, 10_000);
    for _ in 0..20 {
        assert_eq!(program.get(None).await, 200);
    }
    assert_eq!(program.end().await, Some(0));
}
