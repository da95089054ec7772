//! One item of a plan: an image by tag or digest, or a blob by itself.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::sign::PlanStatement;
use longshore_proto::{Descriptor, Digest, ErrorCode, Manifest, RepositoryName, Tag};

use super::{Asked, Events, Stop, failed};
use crate::api::ApiError;
use crate::auth::{Action, Actor};
use crate::cache::TAG_FRESH;
use crate::registry::{Registry, now_ms};
use crate::storage::{Pointer, StoredManifest};

/// Indexes inside indexes that are followed.
const INDEX_DEPTH_MAX: usize = 4;
/// Blobs of one image that are looked up or read at once.
const READS_IN_FLIGHT_MAX: usize = 8;
/// The form of a layer that every agent understands.
const FORM_BLOB: &str = "blob";

/// A blob of the image that this repository holds.
type Member = (Descriptor, Option<Arc<Pointer>>);

struct Item<'a> {
    registry: &'a Registry,
    asked: &'a Asked,
    events: &'a Events,
    repository: RepositoryName,
}

pub(super) async fn plan(
    registry: &Registry,
    asked: &Asked,
    item: &rpc::PlanItem,
    events: &Events,
) -> Result<(), Stop> {
    let repository: RepositoryName = item.repository.parse()?;
    let actor = Actor::Node(asked.session.clone());
    registry.auth.authorize(&actor, Action::Pull, &repository)?;
    let one = Item { registry, asked, events, repository };
    match &item.wanted {
        None => Err(failed(ErrorCode::ManifestInvalid, "item says not what is wanted")),
        Some(Wanted::Tag(tag)) => one.by_tag(&tag.parse()?, &item.known_digest).await,
        Some(Wanted::ManifestDigest(digest)) => one.by_digest(digest.parse()?, None).await,
        Some(Wanted::BlobDigest(digest)) => one.blob(digest.parse()?).await,
    }
}

impl Item<'_> {
    async fn by_tag(&self, tag: &Tag, known: &str) -> Result<(), Stop> {
        let record = self.registry.storage.tag(&self.repository, tag).await?;
        let record = record.ok_or_else(unknown_manifest)?;
        if known.parse() != Ok(record.digest) {
            return self.by_digest(record.digest, Some(tag)).await;
        }
        // The manifest must still be there: a tag may dangle.
        let manifest = self.registry.storage.manifest(&self.repository, &record.digest).await?;
        let manifest = manifest.ok_or_else(unknown_manifest)?;
        let mut event = manifest_event(&record.digest, &manifest, Some(tag));
        event.content.clear();
        self.events.send(Event::Manifest(event)).await
    }

    /// Manifests down to the platform's, then its blobs.
    async fn by_digest(&self, digest: Digest, tag: Option<&Tag>) -> Result<(), Stop> {
        let (mut digest, mut tag) = (digest, tag);
        for _ in 0..INDEX_DEPTH_MAX {
            let stored = self.registry.storage.manifest(&self.repository, &digest).await?;
            let stored = stored.ok_or_else(unknown_manifest)?;
            self.registry.metrics.sent("inline").inc_by(stored.content.len() as u64);
            let event = manifest_event(&digest, &stored, tag.take());
            self.events.send(Event::Manifest(event)).await?;
            let manifest = Manifest::parse(&stored.content, &stored.media_type)
                .map_err(|error| failed(ErrorCode::ManifestInvalid, &error.to_string()))?;
            match &manifest {
                Manifest::Image { config, layers, .. } => {
                    return self.image(digest, config, layers).await;
                }
                Manifest::Index { .. } => {
                    let chosen = manifest.for_platform(&self.asked.platform).ok_or_else(|| {
                        failed(ErrorCode::ManifestUnknown, "index has nothing for this platform")
                    })?;
                    digest = chosen.digest;
                }
            }
        }
        Err(failed(ErrorCode::ManifestInvalid, "indexes are nested too deeply"))
    }

    async fn image(
        &self,
        manifest: Digest,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<(), Stop> {
        let all: Vec<Descriptor> = std::iter::once(config).chain(layers).cloned().collect();
        let find = |descriptor: Descriptor| async move {
            let found = self.registry.storage.member(&self.repository, &descriptor.digest).await?;
            Ok::<Member, Stop>((descriptor, found))
        };
        let members: Vec<Member> =
            stream::iter(all).map(find).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
        for (descriptor, pointer) in &members {
            self.send_inline(descriptor, pointer.as_deref()).await?;
        }
        let layer = |(index, (descriptor, pointer)): (usize, &Member)| {
            let (descriptor, pointer) = (descriptor.clone(), pointer.clone());
            async move { self.layer(index, descriptor, pointer).await }
        };
        let indexed: Vec<(usize, &Member)> = members[1..].iter().enumerate().collect();
        let mut ready = stream::iter(indexed).map(layer).buffered(READS_IN_FLIGHT_MAX);
        while let Some(event) = ready.try_next().await? {
            self.events.send(Event::Layer(event)).await?;
        }
        self.finish(manifest, &members).await
    }

    async fn blob(&self, digest: Digest) -> Result<(), Stop> {
        let pointer = self.registry.storage.member(&self.repository, &digest).await?;
        let pointer = pointer.ok_or_else(|| failed(ErrorCode::BlobUnknown, "blob is unknown"))?;
        let media_type = "application/octet-stream".to_owned();
        let descriptor = Descriptor { media_type, digest, size: pointer.size };
        self.send_inline(&descriptor, Some(&pointer)).await?;
        let layer = self.layer(0, descriptor.clone(), Some(pointer.clone())).await?;
        self.events.send(Event::Layer(layer)).await?;
        self.finish(digest, &[(descriptor, Some(pointer))]).await
    }

    async fn send_inline(
        &self,
        descriptor: &Descriptor,
        pointer: Option<&Pointer>,
    ) -> Result<(), Stop> {
        let Some(pointer) = pointer.filter(|p| p.size <= self.asked.inline_bytes_max) else {
            return Ok(());
        };
        let content = self.registry.storage.inline(&descriptor.digest, pointer).await?;
        self.registry.metrics.sent("inline").inc_by(content.len() as u64);
        let descriptor = Some(descriptor.into());
        self.events.send(Event::Blob(rpc::InlineBlob { descriptor, content })).await
    }

    /// A layer that the repository does not hold (one that must not be distributed) has no form.
    async fn layer(
        &self,
        index: usize,
        descriptor: Descriptor,
        pointer: Option<Arc<Pointer>>,
    ) -> Result<rpc::PlanLayer, Stop> {
        let mut forms = Vec::new();
        if let Some(pointer) = pointer {
            let list = self.registry.storage.piece_list(&descriptor.digest, &pointer).await?;
            forms.push(rpc::LayerForm {
                kind: FORM_BLOB.to_owned(),
                descriptor: Some((&descriptor).into()),
                list: Some((*list).clone()),
            });
        }
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Ok(rpc::PlanLayer { index, descriptor: Some((&descriptor).into()), forms })
    }

    /// Peers, then the origin's word for every blob that is a member here.
    async fn finish(&self, manifest: Digest, members: &[Member]) -> Result<(), Stop> {
        let held = members.iter().filter_map(|(descriptor, pointer)| {
            pointer.as_ref().map(|pointer| (descriptor.digest, pointer.size))
        });
        let held: Vec<(Digest, u64)> = held.collect();
        let swarmed = held.iter().filter(|(_, size)| *size > self.asked.inline_bytes_max);
        let swarmed: Vec<Digest> = swarmed.map(|(digest, _)| *digest).collect();
        let peers = self.registry.tracker.plan(&self.asked.session, &swarmed);
        if !peers.is_empty() {
            self.events.send(Event::Peers(rpc::Peers { peers })).await?;
        }
        let statement = PlanStatement {
            repository: self.repository.clone(),
            manifest,
            layers: held.into_iter().map(|(digest, _)| digest).collect(),
            issued_at_s: now_ms() / 1000,
            policy_epoch: 0,
        };
        let signature = self.registry.key.sign(&statement);
        let message = rpc::PlanStatement::from_statement(&statement, &signature);
        self.events.send(Event::Statement(message)).await
    }
}

fn manifest_event(
    digest: &Digest,
    manifest: &StoredManifest,
    tag: Option<&Tag>,
) -> rpc::PlanManifest {
    let descriptor = Descriptor {
        media_type: manifest.media_type.clone(),
        digest: *digest,
        size: manifest.content.len() as u64,
    };
    rpc::PlanManifest {
        descriptor: Some((&descriptor).into()),
        content: manifest.content.clone(),
        tag: tag.map(Tag::to_string).unwrap_or_default(),
        fresh_ms: tag.map_or(0, |_| u32::try_from(TAG_FRESH.as_millis()).unwrap_or(u32::MAX)),
        stale: false,
    }
}

fn unknown_manifest() -> Stop {
    Stop::Failed(ApiError::new(ErrorCode::ManifestUnknown, "manifest is unknown"))
}
