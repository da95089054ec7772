//! Traces of the program, as a collector gets them.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::common::PATIENCE;
use crate::program::Program;

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

/// The program, sending to `collector` so many of 10,000 traces that begin there.
fn traced(collector: SocketAddr, sampled: u32) -> Program {
    let endpoint = format!("--telemetry-otlp-endpoint=http://{collector}");
    Program::start(&[&endpoint, &format!("--telemetry-sampled-per-10000={sampled}")])
}

async fn get(program: &Program, traceparent: Option<&str>) -> u16 {
    let request = program.client.get(format!("http://{}/v2/", program.address));
    let request = match traceparent {
        Some(value) => request.header("traceparent", value),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

/// SIGTERM, and its end.
async fn end(mut program: Program) -> Option<i32> {
    program.terminate();
    program.ended().await.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_joins_its_clients_trace_and_is_sent_by_the_end() {
    let (address, mut spans) = collector().await;
    let program = traced(address, 0);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    assert_eq!(get(&program, Some(&parent)).await, 200);
    assert_eq!(get(&program, None).await, 200, "no trace of its own: none is sampled");
    assert_eq!(get(&program, Some("00-nonsense")).await, 200);
    assert_eq!(end(program).await, Some(0));
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
    let program = traced(nobody, 10_000);
    for _ in 0..20 {
        assert_eq!(get(&program, None).await, 200);
    }
    assert_eq!(end(program).await, Some(0));
}
