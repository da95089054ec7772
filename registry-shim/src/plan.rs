//! The plan: what an image is made of and how its bytes are verified, in one stream.
//!
//! tag → index → the platform's manifest → configuration and small blobs inline → each layer's
//! signed piece list → peers → the origin's word that the layers are members. Every item asks the
//! gate for its repository. An item that fails says so and leaves the others alone.

mod image;

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use longshore_proto::ErrorCode;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::planner_server::Planner;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::api::ApiError;
use crate::auth::NodeSession;
use crate::registry::Registry;
use crate::rpc::{invalid, node};

/// Items of one call: a boot set of images.
const ITEMS_MAX: usize = 256;
/// Items that are worked on at once.
const ITEMS_IN_FLIGHT_MAX: usize = 8;
/// Events that wait for a slow reader.
const EVENTS_MAX: usize = 16;
/// Largest blob that is sent inside the stream: 256 KiB.
const INLINE_BYTES_CAP: u64 = 256 * 1024;

/// Serves `longshore.origin.v1.Planner`.
#[derive(Clone, Debug)]
pub(crate) struct PlannerService {
    registry: Arc<Registry>,
}

/// What all items of a call share.
#[derive(Debug)]
struct Asked {
    session: Arc<NodeSession>,
    platform: longshore_proto::Platform,
    inline_bytes_max: u64,
}

/// Where the events of one item go.
#[derive(Debug)]
struct Events {
    item: u32,
    sender: mpsc::Sender<Result<rpc::PlanEvent, Status>>,
}

/// Why an item ends early.
#[derive(Debug)]
enum Stop {
    /// The reader has gone.
    HungUp,
    /// The item cannot be planned; the client is told.
    Failed(ApiError),
}

impl PlannerService {
    /// A service of this instance.
    pub(crate) const fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[tonic::async_trait]
impl Planner for PlannerService {
    type PlanStream = BoxStream<'static, Result<rpc::PlanEvent, Status>>;

    async fn plan(
        &self,
        request: Request<rpc::PlanRequest>,
    ) -> Result<Response<Self::PlanStream>, Status> {
        let session = node(&self.registry, request.metadata())?;
        let message = request.into_inner();
        if message.items.len() > ITEMS_MAX {
            return Err(invalid(format!("more than {ITEMS_MAX} items")));
        }
        let platform = message.platform.unwrap_or_default();
        let asked = Arc::new(Asked {
            session,
            platform: longshore_proto::Platform {
                os: or(platform.os, "linux"),
                architecture: or(platform.architecture, "amd64"),
                variant: platform.variant,
            },
            inline_bytes_max: message.inline_bytes_max.min(INLINE_BYTES_CAP),
        });
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let registry = self.registry.clone();
        // Ends with its items, or as soon as the reader hangs up.
        self.registry.tasks.spawn(async move {
            let items = message.items.into_iter().map(|item| {
                let events = Events { item: item.item, sender: sender.clone() };
                plan_item(registry.clone(), asked.clone(), item, events)
            });
            futures::stream::iter(items)
                .buffer_unordered(ITEMS_IN_FLIGHT_MAX)
                .collect::<()>()
                .await;
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

async fn plan_item(
    registry: Arc<Registry>,
    asked: Arc<Asked>,
    item: rpc::PlanItem,
    events: Events,
) {
    let planned = image::plan(&registry, &asked, &item, &events).await;
    let last = match planned {
        Ok(()) => {
            registry.metrics.plans.inc();
            Event::Finished(rpc::Finished {})
        }
        Err(Stop::HungUp) => return,
        Err(Stop::Failed(error)) => {
            registry.metrics.plans_failed.inc();
            tracing::debug!(code = error.code().as_str(), error = error.message(), "no plan");
            Event::Error(rpc::PlanError {
                code: error.code().as_str().to_owned(),
                message: error.message().to_owned(),
            })
        }
    };
    // Whoever hung up needs no end.
    let _ = events.send(last).await;
}

impl Events {
    async fn send(&self, event: Event) -> Result<(), Stop> {
        let event = rpc::PlanEvent { item: self.item, event: Some(event) };
        self.sender.send(Ok(event)).await.map_err(|_| Stop::HungUp)
    }
}

impl<E: Into<ApiError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn failed(code: ErrorCode, message: &str) -> Stop {
    Stop::Failed(ApiError::new(code, message))
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}
