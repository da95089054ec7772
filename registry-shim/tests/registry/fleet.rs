//! What a node does: join, plan, announce, ask for permits, and read by them.

mod joining;
mod permitting;
mod planning;
mod rotation;

use std::collections::BTreeMap;

use longshore_proto::piece::{PieceIndex, PieceList};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::membership_client::MembershipClient;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::rpc::origin::planner_client::PlannerClient;
use longshore_proto::rpc::origin::tracker_client::TrackerClient;
use longshore_proto::sign::SigningKey;
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Digest, SWARM_VERSION, media_type};
use longshore_registry::config::auth::{Rule, RuleAction};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, RANGE};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::common::{TestRegistry, content, image_manifest, refusal, refused, sha256};

/// A node that joined.
pub(crate) struct Node {
    channel: Channel,
    joined: rpc::JoinResponse,
}

pub(crate) fn join_request(token: &str) -> rpc::JoinRequest {
    let (key, _) = SigningKey::generate();
    // libp2p's protobuf: type Ed25519, 32 bytes.
    let public_key = [&[8, 1, 18, 32], key.public().as_bytes().as_slice()].concat();
    let kind = if token.is_empty() {
        rpc::credential::Kind::Anonymous(rpc::Anonymous {})
    } else {
        rpc::credential::Kind::Token(token.to_owned())
    };
    rpc::JoinRequest {
        credential: Some(rpc::Credential { kind: Some(kind) }),
        public_key: public_key.into(),
        addresses: vec!["/ip4/0.0.0.0/tcp/7770".to_owned()],
        swarm_version: SWARM_VERSION,
        zone: "a".to_owned(),
        ..rpc::JoinRequest::default()
    }
}

async fn channel(registry: &TestRegistry) -> Channel {
    Channel::from_shared(registry.url("")).unwrap().connect().await.unwrap()
}

pub(crate) async fn join(
    registry: &TestRegistry,
    request: rpc::JoinRequest,
) -> Result<rpc::JoinResponse, Status> {
    let mut client = MembershipClient::new(channel(registry).await);
    client.join(request).await.map(tonic::Response::into_inner)
}

/// What a node that joined shows.
pub(crate) async fn session(registry: &TestRegistry) -> String {
    Node::join(registry).await.joined.session
}

impl Node {
    pub(crate) async fn join(registry: &TestRegistry) -> Self {
        let joined = join(registry, join_request("")).await.unwrap();
        Self { channel: channel(registry).await, joined }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.joined.session).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    }

    pub(crate) async fn plan(&self, items: Vec<rpc::PlanItem>) -> BTreeMap<u32, Vec<Event>> {
        let message = rpc::PlanRequest {
            items,
            platform: None,
            forms: vec!["blob".to_owned()],
            inline_bytes_max: 1000,
        };
        let mut client = PlannerClient::new(self.channel.clone());
        let mut stream = client.plan(self.request(message)).await.unwrap().into_inner();
        let mut events: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.entry(event.item).or_default().push(event.event.unwrap());
        }
        events
    }

    async fn permit(&self, message: rpc::PermitRequest) -> rpc::PermitResponse {
        let mut client = TrackerClient::new(self.channel.clone());
        client.permit(self.request(message)).await.unwrap().into_inner()
    }

    async fn announce(&self, message: rpc::AnnounceRequest) -> rpc::AnnounceResponse {
        let mut client = TrackerClient::new(self.channel.clone());
        client.announce(self.request(message)).await.unwrap().into_inner()
    }
}

pub(crate) fn item(item: u32, repository: &str, wanted: Wanted) -> rpc::PlanItem {
    let repository = repository.to_owned();
    rpc::PlanItem { item, repository, wanted: Some(wanted), ..rpc::PlanItem::default() }
}

fn want(repository: &str, content: &[u8], have: &[u32]) -> rpc::PermitWant {
    let mut bitmap = vec![0_u8; 8];
    have.iter().for_each(|piece| bitmap[*piece as usize / 8] |= 1 << (piece % 8));
    bitmap.truncate(content.len().div_ceil(256 * 1024).div_ceil(8));
    rpc::PermitWant {
        repository: repository.to_owned(),
        digest: sha256(content).to_string(),
        size: content.len() as u64,
        piece_length: 256 * 1024,
        have_bitmap: bitmap.into(),
        urgent: Vec::new(),
    }
}

pub(crate) fn kinds(events: &[Event]) -> String {
    let kind = |event: &Event| match event {
        Event::Manifest(_) => "manifest",
        Event::Blob(_) => "inline",
        Event::Layer(_) => "layer",
        Event::Statement(_) => "statement",
        Event::Finished(_) => "finished",
        Event::Peers(_) => "peers",
        Event::Error(_) => "error",
        Event::States(_) | Event::Permits(_) => "other",
    };
    events.iter().map(kind).collect::<Vec<_>>().join(" ")
}
