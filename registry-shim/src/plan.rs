//! The plan: what an image is made of and how its bytes are verified, in one stream.
//!
//! tag → index → the platform's manifest → configuration and small blobs inline → each layer's
//! signed piece list → peers → the origin's word that the layers are members. Every item asks the
//! gate for its repository. An item that fails says so and leaves the others alone.

mod image;
mod sink;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use longshore_proto::ErrorCode;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::planner_server::Planner;
use sink::Sink;
use tokio::sync::{Semaphore, mpsc};
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
/// Streams at once; one from warm caches takes milliseconds.
const STREAMS_MAX: usize = 256;
/// How long a call waits for a place among them.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest name of an operating system, an architecture or a variant.
const PLATFORM_CHARS_MAX: usize = 64;
/// Largest blob that is sent inside the stream: 256 KiB.
const INLINE_BYTES_CAP: u64 = 256 * 1024;

/// Serves `longshore.origin.v1.Planner`.
#[derive(Clone, Debug)]
pub(crate) struct PlannerService {
    registry: Arc<Registry>,
    places: Arc<Semaphore>,
}

/// What all items of a call share.
#[derive(Debug)]
struct Asked {
    session: Arc<NodeSession>,
    platform: longshore_proto::Platform,
    inline_bytes_max: u64,
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
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, places: Arc::new(Semaphore::new(STREAMS_MAX)) }
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
        let names = [&platform.os, &platform.architecture, &platform.variant];
        if names.iter().any(|name| name.len() > PLATFORM_CHARS_MAX) {
            return Err(invalid("platform has a name that is too long"));
        }
        let asked = Arc::new(Asked {
            session,
            platform: longshore_proto::Platform {
                os: or(platform.os, "linux"),
                architecture: or(platform.architecture, "amd64"),
                variant: platform.variant,
            },
            inline_bytes_max: message.inline_bytes_max.min(INLINE_BYTES_CAP),
        });
        let place = tokio::time::timeout(PLACE_TIMEOUT, self.places.clone().acquire_owned()).await;
        let Ok(place) = place else {
            return Err(Status::resource_exhausted("too many plans are under way"));
        };
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let registry = self.registry.clone();
        // Ends with its items, as soon as nobody listens, or with the instance.
        self.registry.tasks.spawn(async move {
            let _place = place;
            let items = message.items.into_iter().map(|item| {
                let events = Sink::new(item.item, sender.clone());
                plan_item(registry.clone(), asked.clone(), item, events)
            });
            let planned = futures::stream::iter(items)
                .buffer_unordered(ITEMS_IN_FLIGHT_MAX)
                .take_while(|listening| std::future::ready(*listening))
                .count();
            registry.ended.run_until_cancelled(planned).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

/// Whether somebody still listens.
async fn plan_item(
    registry: Arc<Registry>,
    asked: Arc<Asked>,
    item: rpc::PlanItem,
    events: Sink,
) -> bool {
    let planned = image::plan(&registry, &asked, &item, &events).await;
    let last = match planned {
        Ok(()) => {
            registry.metrics.plans.inc();
            Event::Finished(rpc::Finished {})
        }
        Err(Stop::HungUp) => return false,
        Err(Stop::Failed(error)) => {
            registry.metrics.plans_failed.inc();
            let error = match item.repository.parse() {
                Ok(name) => error.if_certain(&registry, &name, &http::Method::GET),
                Err(_) => error,
            };
            tracing::debug!(code = error.code().as_str(), error = error.message(), "no plan");
            Event::Error(rpc::PlanError {
                code: error.code().as_str().to_owned(),
                message: error.message().to_owned(),
            })
        }
    };
    events.send(last).await.is_ok()
}

impl<E: Into<ApiError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn failed(code: ErrorCode, message: impl Into<String>) -> Stop {
    Stop::Failed(ApiError::new(code, message))
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}
