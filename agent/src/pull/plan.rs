//! Reading a plan: from events to what can be believed.
//!
//! Every manifest and inline blob is hashed, every list and the statement are proven by the
//! origin's keys, everything named must hang together with what was asked for. A plan is taken
//! whole or not at all. It reads and writes nothing but the stream.

use bytes::Bytes;
use futures::StreamExt;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::sign::{PlanStatement, PublicKeys};
use longshore_proto::wire::SignedPieceList;
use longshore_proto::{Descriptor, Digest, MANIFEST_BYTES_MAX, Manifest, RepositoryName, Tag};

use super::PullError;
use crate::origin::PlanStream;
use crate::store::PLAN_EVENTS_MAX;

/// All events of a plan together: 64 images of a usual kind, one of the largest.
const PLAN_BYTES_MAX: usize = 128 * 1024 * 1024;
/// An inline blob is small by definition; a configuration may be a little larger.
const INLINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The form of a layer that is its own bytes.
const BLOB_FORM: &str = "blob";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Whatever the tag means.
    Tag(Tag),
    /// An image or an index.
    Manifest(Digest),
    /// A blob without its manifest.
    Blob(Digest),
}

/// A plan that holds.
#[derive(Debug)]
pub struct Plan {
    /// Manifests with media type and content; the one asked for comes first.
    pub manifests: Vec<(Descriptor, Bytes)>,
    /// Small blobs with their content.
    pub inline: Vec<(Descriptor, Bytes)>,
    /// Layers in the order in which they are unpacked.
    pub layers: Vec<PlannedLayer>,
    /// Peers that have some of it.
    pub peers: Vec<rpc::Peer>,
    /// First permits.
    pub permits: Vec<rpc::PiecePermit>,
    /// How long the tag's meaning may be used, milliseconds.
    pub fresh_ms: u32,
    /// The origin could not revalidate the tag.
    pub stale: bool,
    /// Only the digest came: what the caller knows still stands.
    pub unchanged: Option<Digest>,
    /// The events as they came, to be kept.
    pub events: Vec<rpc::PlanEvent>,
}

/// A layer as the plan describes it.
#[derive(Clone, Debug)]
pub struct PlannedLayer {
    /// As the manifest names it.
    pub descriptor: Descriptor,
    /// How it is verified; without one only the origin itself can serve it.
    pub list: Option<SignedPieceList>,
}

/// What has come so far.
struct Reader<'a> {
    plan: Plan,
    keys: &'a PublicKeys,
    statement: Option<PlanStatement>,
    bytes: usize,
}

/// Reads one item's events to their end.
pub async fn read_plan(
    mut stream: PlanStream,
    repository: &RepositoryName,
    wanted: &Wanted,
    keys: &PublicKeys,
) -> Result<Plan, PullError> {
    let mut reader = Reader::new(keys);
    while let Some(event) = stream.next().await {
        if reader.take(event?)? {
            return reader.finish(repository, wanted);
        }
    }
    Err(PullError::Unavailable("the plan broke off".into()))
}

/// Reads events that were kept or that a peer told.
pub fn replay_plan(
    events: Vec<rpc::PlanEvent>,
    repository: &RepositoryName,
    wanted: &Wanted,
    keys: &PublicKeys,
) -> Result<Plan, PullError> {
    let mut reader = Reader::new(keys);
    for event in events {
        if reader.take(event)? {
            break;
        }
    }
    reader.finish(repository, wanted)
}

impl<'a> Reader<'a> {
    fn new(keys: &'a PublicKeys) -> Self {
        let plan = Plan {
            manifests: Vec::new(),
            inline: Vec::new(),
            layers: Vec::new(),
            peers: Vec::new(),
            permits: Vec::new(),
            fresh_ms: 0,
            stale: false,
            unchanged: None,
            events: Vec::new(),
        };
        Self { plan, keys, statement: None, bytes: 0 }
    }

    /// Takes an event; true when it was the last.
    fn take(&mut self, event: rpc::PlanEvent) -> Result<bool, PullError> {
        self.bytes += prost::Message::encoded_len(&event);
        if self.plan.events.len() >= PLAN_EVENTS_MAX || self.bytes > PLAN_BYTES_MAX {
            return Err(invalid("it does not end"));
        }
        match event.event.as_ref() {
            Some(Event::Manifest(manifest)) => self.manifest(manifest)?,
            Some(Event::Blob(blob)) => {
                let content = proven(blob.descriptor.as_ref(), &blob.content, INLINE_BYTES_MAX)?;
                self.plan.inline.push(content);
            }
            Some(Event::Layer(layer)) => self.layer(layer)?,
            Some(Event::Peers(peers)) => self.plan.peers.extend_from_slice(&peers.peers),
            Some(Event::Permits(permits)) => {
                self.plan.permits.extend_from_slice(&permits.permits);
            }
            Some(Event::Statement(statement)) => {
                self.statement = Some(statement.verified(self.keys)?);
            }
            Some(Event::Finished(_)) => return Ok(true),
            Some(Event::Error(error)) => return Err(plan_error(error)),
            // Lists that still grow are provisional and left to the origin; what is unknown here
            // is for agents to come.
            Some(Event::States(_)) | None => return Ok(false),
        }
        self.plan.events.push(event);
        Ok(false)
    }

    fn manifest(&mut self, message: &rpc::PlanManifest) -> Result<(), PullError> {
        if self.plan.manifests.is_empty() {
            self.plan.fresh_ms = message.fresh_ms;
            self.plan.stale = message.stale;
        }
        if message.content.is_empty() {
            let descriptor = message.descriptor.as_ref().ok_or_else(|| invalid("no descriptor"))?;
            let digest = descriptor.digest.parse().map_err(|_| invalid("no digest"))?;
            self.plan.unchanged = Some(digest);
            return Ok(());
        }
        let content = proven(message.descriptor.as_ref(), &message.content, MANIFEST_BYTES_MAX)?;
        self.plan.manifests.push(content);
        Ok(())
    }

    fn layer(&mut self, message: &rpc::PlanLayer) -> Result<(), PullError> {
        let descriptor = message.descriptor.as_ref().ok_or_else(|| invalid("no descriptor"))?;
        let descriptor = Descriptor::try_from(descriptor)?;
        let form = message.forms.iter().find(|form| form.kind == BLOB_FORM);
        let list = match form.and_then(|form| form.list.as_ref()) {
            Some(list) if !list.provisional => Some(SignedPieceList::from_wire(list, self.keys)?),
            _ => None,
        };
        let fits = |list: &SignedPieceList| {
            list.list.digest() == descriptor.digest && list.list.size() == descriptor.size
        };
        if !list.as_ref().is_none_or(fits) {
            return Err(invalid("a list is of another blob than its layer"));
        }
        self.plan.layers.push(PlannedLayer { descriptor, list });
        Ok(())
    }

    /// Whether it all hangs together.
    fn finish(self, repository: &RepositoryName, wanted: &Wanted) -> Result<Plan, PullError> {
        let plan = self.plan;
        if plan.unchanged.is_some() && plan.manifests.is_empty() {
            return match wanted {
                Wanted::Tag(_) => Ok(plan),
                _ => Err(invalid("content is missing")),
            };
        }
        let statement = self.statement.ok_or_else(|| invalid("the statement is missing"))?;
        let has = |digest: &Digest| plan.manifests.iter().any(|(d, _)| d.digest == *digest);
        let asked_for = match wanted {
            Wanted::Tag(_) => !plan.manifests.is_empty(),
            Wanted::Manifest(digest) => has(digest),
            Wanted::Blob(digest) => statement.manifest == *digest,
        };
        let about = has(&statement.manifest) || matches!(wanted, Wanted::Blob(_));
        if statement.repository != *repository || !asked_for || !about {
            return Err(invalid("it is about something else"));
        }
        let named = named(&plan.manifests, wanted)?;
        let of_image = |d: &Digest| named.contains(d);
        let member = |d: &Digest| of_image(d) && statement.layers.contains(d);
        let layer_holds = |layer: &PlannedLayer| match layer.list {
            Some(_) => member(&layer.descriptor.digest),
            None => of_image(&layer.descriptor.digest),
        };
        let inline_holds = plan.inline.iter().all(|(descriptor, _)| member(&descriptor.digest));
        if !plan.layers.iter().all(layer_holds) || !inline_holds {
            return Err(invalid("a blob is no verified member of this image"));
        }
        Ok(plan)
    }
}

/// Every digest that the manifests name, and what was asked for; an error when a manifest after
/// the first is named by none.
fn named(manifests: &[(Descriptor, Bytes)], wanted: &Wanted) -> Result<Vec<Digest>, PullError> {
    let mut named = match wanted {
        Wanted::Blob(digest) => vec![*digest],
        _ => Vec::new(),
    };
    for (at, (descriptor, content)) in manifests.iter().enumerate() {
        if at > 0 && !named.contains(&descriptor.digest) {
            return Err(invalid("a manifest is not of this image"));
        }
        let manifest = Manifest::parse(content, &descriptor.media_type)
            .map_err(|error| invalid(&error.to_string()))?;
        named.extend(manifest.references());
    }
    Ok(named)
}

/// Content that is what its descriptor says.
fn proven(
    descriptor: Option<&rpc::Descriptor>,
    content: &Bytes,
    bytes_max: usize,
) -> Result<(Descriptor, Bytes), PullError> {
    let descriptor = Descriptor::try_from(descriptor.ok_or_else(|| invalid("no descriptor"))?)?;
    if content.len() > bytes_max {
        return Err(invalid("content is too large"));
    }
    let digest = descriptor.digest;
    if content.len() as u64 != descriptor.size || Digest::of(digest.algorithm(), content) != digest
    {
        return Err(invalid("content does not match its digest"));
    }
    Ok((descriptor, content.clone()))
}

fn plan_error(error: &rpc::PlanError) -> PullError {
    let (code, message) = (error.code.clone(), error.message.clone());
    match code.as_str() {
        "UNAUTHORIZED" | "DENIED" => PullError::Denied(message),
        code if code.ends_with("_UNKNOWN") => {
            PullError::NotFound { code: code.to_owned(), message }
        }
        "UNAVAILABLE" | "TOOMANYREQUESTS" => PullError::Unavailable(message),
        _ => PullError::Invalid(format!("{code}: {message}")),
    }
}

fn invalid(why: &str) -> PullError {
    PullError::Invalid(why.to_owned())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
