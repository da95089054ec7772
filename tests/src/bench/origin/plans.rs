//! Node starts as agents do them: one call that plans all images.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::membership_client::MembershipClient;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::rpc::origin::planner_client::PlannerClient;
use longshore_proto::sign::SigningKey;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::images::SmallImage;
use crate::testkit::error::{LabError, Result};

/// Where users are asked who they are, nodes are too.
pub(super) const JOIN_TOKEN: &str = "the-join-token-of-the-benchmark";
/// Nodes that start at once.
const NODES: usize = 32;
/// Configurations come inside the plan, layers as lists.
const INLINE_BYTES_MAX: u64 = 512;

/// Plans answered in full, per minute.
pub(super) async fn per_minute(
    url: &str,
    images: &[SmallImage],
    duration: Duration,
) -> Result<f64> {
    let request = request(images);
    let start = Instant::now();
    let nodes = (0..NODES).map(|_| async {
        let (channel, session) = join(url).await?;
        let mut planned = 0_u64;
        while start.elapsed() < duration {
            plan(&channel, &session, &request).await?;
            planned += 1;
        }
        Ok::<_, LabError>(planned)
    });
    let planned: Vec<u64> = stream::iter(nodes).buffer_unordered(NODES).try_collect().await?;
    Ok(planned.iter().sum::<u64>() as f64 * 60.0 / start.elapsed().as_secs_f64())
}

fn request(images: &[SmallImage]) -> rpc::PlanRequest {
    let items = images.iter().zip(0..).map(|(image, item)| rpc::PlanItem {
        item,
        repository: image.repository.clone(),
        wanted: Some(Wanted::Tag(image.tag.clone())),
        ..rpc::PlanItem::default()
    });
    let items = items.collect();
    let forms = vec!["blob".to_owned()];
    rpc::PlanRequest { items, platform: None, forms, inline_bytes_max: INLINE_BYTES_MAX }
}

async fn join(url: &str) -> Result<(Channel, String)> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?;
    let channel = endpoint.connect().await.map_err(failed)?;
    let (key, _) = SigningKey::generate();
    // libp2p's protobuf: type Ed25519, 32 bytes.
    let public_key = [&[8, 1, 18, 32], key.public().as_bytes().as_slice()].concat();
    let token = rpc::credential::Kind::Token(JOIN_TOKEN.to_owned());
    let request = rpc::JoinRequest {
        credential: Some(rpc::Credential { kind: Some(token) }),
        public_key: public_key.into(),
        addresses: vec!["/ip4/127.0.0.1/tcp/7770".to_owned()],
        swarm_version: SWARM_VERSION,
        zone: "a".to_owned(),
        ..rpc::JoinRequest::default()
    };
    let joined = MembershipClient::new(channel.clone()).join(request).await.map_err(failed)?;
    Ok((channel, joined.into_inner().session))
}

async fn plan(channel: &Channel, session: &str, request: &rpc::PlanRequest) -> Result<()> {
    let mut message = Request::new(request.clone());
    let bearer = format!("Bearer {session}").parse().map_err(failed)?;
    message.metadata_mut().insert("authorization", bearer);
    let answer = PlannerClient::new(channel.clone()).plan(message).await.map_err(failed)?;
    let (mut events, mut finished) = (answer.into_inner(), 0);
    while let Some(event) = events.message().await.map_err(failed)? {
        match event.event {
            Some(Event::Finished(_)) => finished += 1,
            Some(Event::Error(error)) => {
                return Err(LabError::Unexpected(format!("plan: {error:?}")));
            }
            _ => {}
        }
    }
    if finished == request.items.len() {
        return Ok(());
    }
    let planned = request.items.len();
    Err(LabError::Unexpected(format!("{finished} of {planned} images were planned in full")))
}

fn failed(error: impl std::error::Error) -> LabError {
    LabError::Unexpected(format!("plan: {error}"))
}
