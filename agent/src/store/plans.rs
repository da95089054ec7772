//! Plans as they came, so that an image can be started again, and told to peers, without the
//! origin.
//!
//! A record holds a plan's events without the content that is kept elsewhere here; it is whole
//! only while that content is. Nothing in it is believed: whoever reads one checks its signatures
//! and digests as if it had just arrived.

use bytes::{BufMut, Bytes, BytesMut};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::{Digest, Reference, RepositoryName};
use prost::Message as _;

use super::{PieceStore, StoreError};

/// Largest plan that is told to a peer or taken from one.
pub const RELAYED_PLAN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Events of one plan, far above any image's count of layers.
pub const PLAN_EVENTS_MAX: usize = 10_000;

impl PieceStore {
    /// Keeps a plan under each of its manifests.
    pub fn put_plan(
        &self,
        repository: &RepositoryName,
        manifests: &[Digest],
        events: &[rpc::PlanEvent],
    ) -> Result<(), StoreError> {
        let record = encode(events.iter().filter_map(without_content));
        manifests.iter().try_for_each(|digest| self.put_plan_record(repository, digest, &record))
    }

    /// The events of the plan that a manifest belongs to, content included.
    pub fn plan(
        &self,
        repository: &RepositoryName,
        manifest: &Digest,
    ) -> Option<Vec<rpc::PlanEvent>> {
        let mut events = decode(self.plan_record(repository, manifest)?)?;
        for event in &mut events {
            let (descriptor, content) = match &mut event.event {
                Some(Event::Manifest(manifest)) => (&manifest.descriptor, &mut manifest.content),
                Some(Event::Blob(blob)) => (&blob.descriptor, &mut blob.content),
                _ => continue,
            };
            let digest = descriptor.as_ref()?.digest.parse().ok()?;
            *content = self.content(repository, &digest)?.bytes;
        }
        Some(events)
    }

    /// A plan for a peer that can not ask the origin; for [`decode_relayed`] on its side.
    pub fn relayed_plan(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Option<Bytes> {
        let mut events = match reference {
            Reference::Digest(digest) => self.plan(repository, digest)?,
            Reference::Tag(tag) => {
                let stored = self.tag(repository, tag)?;
                let mut events = self.plan(repository, &stored.digest)?;
                let root = events.iter_mut().find_map(|event| match &mut event.event {
                    Some(Event::Manifest(manifest)) => Some(manifest),
                    _ => None,
                })?;
                let same = root.descriptor.as_ref()?.digest == stored.digest.to_string();
                if !same {
                    return None;
                }
                root.tag = tag.as_str().to_owned();
                root.stale = true;
                events
            }
        };
        events.push(rpc::PlanEvent { item: 0, event: Some(Event::Finished(rpc::Finished {})) });
        let plan = encode(events);
        (plan.len() <= RELAYED_PLAN_BYTES_MAX).then_some(plan)
    }
}

/// The events of a plan that a peer told; `None` where they are malformed or too many.
pub fn decode_relayed(plan: Bytes) -> Option<Vec<rpc::PlanEvent>> {
    if plan.len() > RELAYED_PLAN_BYTES_MAX { None } else { decode(plan) }
}

/// What is worth keeping of an event: not who had the pieces then, not who might fetch them.
fn without_content(event: &rpc::PlanEvent) -> Option<rpc::PlanEvent> {
    let mut event = rpc::PlanEvent { item: 0, ..event.clone() };
    match &mut event.event {
        Some(Event::Manifest(manifest)) => {
            manifest.content = Bytes::new();
            manifest.tag = String::new();
        }
        Some(Event::Blob(blob)) => blob.content = Bytes::new(),
        Some(Event::Layer(_) | Event::Statement(_)) => {}
        _ => return None,
    }
    Some(event)
}

fn encode(events: impl IntoIterator<Item = rpc::PlanEvent>) -> Bytes {
    let mut encoded = BytesMut::new();
    for event in events {
        let message = event.encode_length_delimited_to_vec();
        encoded.put_slice(&message);
    }
    encoded.freeze()
}

fn decode(mut encoded: Bytes) -> Option<Vec<rpc::PlanEvent>> {
    let mut events = Vec::new();
    while !encoded.is_empty() {
        if events.len() == PLAN_EVENTS_MAX {
            return None;
        }
        events.push(rpc::PlanEvent::decode_length_delimited(&mut encoded).ok()?);
    }
    Some(events)
}
