//! One item of a plan: an image by tag or digest, or a blob by itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use longshore_proto::rpc::origin::plan_item::Wanted;
use longshore_proto::sign::PlanStatement;
use longshore_proto::{Descriptor, Digest, ErrorCode, Manifest, Platform, RepositoryName, Tag};
use tokio::time::Instant;

use super::sink::Sink;
use super::{Asked, Stop, failed};
use crate::api::{ApiError, upstream_answer};
use crate::auth::{Action, Actor};
use crate::registry::{Registry, now_ms};
use crate::storage::{Pointer, StoredManifest};
use crate::upstream::UpstreamError;

/// Indexes inside indexes that are followed.
const INDEX_DEPTH_MAX: usize = 4;
/// Blobs of one image that are looked up or read at once.
const READS_IN_FLIGHT_MAX: usize = 8;
/// The form of a layer that every agent understands.
const FORM_BLOB: &str = "blob";

/// Blobs of an upstream are waited for as long, all of an item together.
const FILLS_TIMEOUT: Duration = Duration::from_secs(20);

/// Platforms that an error names.
const PLATFORMS_NAMED_MAX: usize = 16;

/// A blob of the image that this repository holds.
#[derive(Clone)]
struct Member {
    descriptor: Descriptor,
    pointer: Arc<Pointer>,
}

struct Item<'a> {
    registry: &'a Registry,
    asked: &'a Asked,
    events: &'a Sink,
    repository: RepositoryName,
    /// What an upstream has not given by then is not waited for.
    fills_until: Instant,
}

pub(super) async fn plan(
    registry: &Registry,
    asked: &Asked,
    item: &rpc::PlanItem,
    events: &Sink,
) -> Result<(), Stop> {
    let repository: RepositoryName = item.repository.parse()?;
    // Without an upstream of that name its images would be taken for this registry's own.
    let repository = match item.namespace.as_str() {
        "" => repository,
        ns => registry.upstreams.local_name(ns, repository).ok_or_else(|| {
            failed(ErrorCode::NameUnknown, "this origin fronts no registry of that name")
        })?,
    };
    let actor = Actor::Node(asked.session.clone());
    registry.auth.authorize(&actor, Action::Pull, &repository)?;
    let fills_until = Instant::now() + FILLS_TIMEOUT;
    let one = Item { registry, asked, events, repository, fills_until };
    match &item.wanted {
        None => Err(failed(ErrorCode::ManifestInvalid, "item says not what is wanted")),
        Some(Wanted::Tag(tag)) => one.by_tag(&tag.parse()?, &item.known_digest).await,
        Some(Wanted::ManifestDigest(digest)) => one.by_digest(digest.parse()?, None).await,
        Some(Wanted::BlobDigest(digest)) => one.blob(digest.parse()?).await,
    }
}

/// The tag by which a manifest was found.
#[derive(Clone, Copy)]
struct Named<'a> {
    tag: &'a Tag,
    /// How long the agent need not ask again.
    fresh_ms: u32,
    stale: bool,
}

impl Item<'_> {
    async fn by_tag(&self, tag: &Tag, known: &str) -> Result<(), Stop> {
        let storage = self.registry.storage_of(&self.repository);
        let (digest, stale) = match self.registry.fronted(&self.repository) {
            Some(fronted) => {
                let tagged = self.events.while_waiting(fronted.tag(tag)).await?;
                let tagged = tagged.map_err(unanswered)?;
                (tagged.digest, tagged.stale)
            }
            None => {
                let record = storage.tag(&self.repository, tag).await?;
                let record = record.ok_or_else(unknown_manifest)?;
                (record.digest, record.stale)
            }
        };
        let fresh_ms = u32::try_from(storage.tag_fresh().as_millis()).unwrap_or(u32::MAX);
        let named = Named { tag, fresh_ms, stale };
        if known.parse() != Ok(digest) {
            return self.by_digest(digest, Some(named)).await;
        }
        // The manifest must still be there: a tag may dangle.
        let manifest = self.manifest(&digest).await?;
        let mut event = manifest_event(&digest, &manifest, Some(named));
        event.content.clear();
        self.events.send(Event::Manifest(event)).await
    }

    /// From the store, or from the upstream.
    async fn manifest(&self, digest: &Digest) -> Result<Arc<StoredManifest>, Stop> {
        let storage = self.registry.storage_of(&self.repository);
        if let Some(manifest) = storage.manifest(&self.repository, digest).await? {
            return Ok(manifest);
        }
        let fronted = self.registry.fronted(&self.repository).ok_or_else(unknown_manifest)?;
        let manifest = self.events.while_waiting(fronted.manifest(digest)).await?;
        manifest.map_err(unanswered)
    }

    /// From the store, or once the upstream's bytes are there. Those of a large blob may not be
    /// within the bound: then the item fails, its client pulls the growing blob over HTTP, and the
    /// next plan has the list.
    async fn pointer(&self, digest: &Digest) -> Result<Option<Arc<Pointer>>, Stop> {
        let storage = self.registry.storage_of(&self.repository);
        if let Some(pointer) = storage.member(&self.repository, digest).await? {
            return Ok(Some(pointer));
        }
        let Some(fronted) = self.registry.fronted(&self.repository) else { return Ok(None) };
        let left = self.fills_until.saturating_duration_since(Instant::now());
        match fronted.kept_blob(digest, left).await {
            Ok(pointer) => Ok(Some(pointer)),
            Err(UpstreamError::NotFound) => Ok(None),
            Err(error) => Err(unanswered(error)),
        }
    }

    /// Manifests down to the platform's, then its blobs.
    async fn by_digest(&self, digest: Digest, tag: Option<Named<'_>>) -> Result<(), Stop> {
        let (mut digest, mut tag) = (digest, tag);
        for _ in 0..INDEX_DEPTH_MAX {
            let stored = self.manifest(&digest).await?;
            self.registry.metrics.sent("inline").inc_by(stored.content.len() as u64);
            let event = manifest_event(&digest, &stored, tag.take());
            self.events.send(Event::Manifest(event)).await?;
            let manifest = Manifest::parse(&stored.content, &stored.media_type)
                .map_err(|error| failed(ErrorCode::ManifestInvalid, error.to_string()))?;
            match &manifest {
                Manifest::Image { config, layers, .. } => {
                    return self.image(digest, config, layers).await;
                }
                Manifest::Index { .. } => {
                    digest = choose(&manifest, &self.asked.platform)?;
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
        let mut members =
            self.events.while_waiting(self.members(std::slice::from_ref(config))).await??;
        let layers = self.events.while_waiting(self.members(layers)).await??;
        members.extend_from_slice(&layers);
        self.send_inline(&members).await?;
        self.send_layers(layers).await?;
        self.finish(manifest, &members).await
    }

    async fn blob(&self, digest: Digest) -> Result<(), Stop> {
        let pointer = self.events.while_waiting(self.pointer(&digest)).await??;
        let pointer = pointer.ok_or_else(|| failed(ErrorCode::BlobUnknown, "blob is unknown"))?;
        let media_type = "application/octet-stream".to_owned();
        let descriptor = Descriptor { media_type, digest, size: pointer.size };
        let member = [Member { descriptor, pointer }];
        self.send_inline(&member).await?;
        self.send_layers(member.to_vec()).await?;
        self.finish(digest, &member).await
    }

    /// Proves that the blobs are in the repository, with the sizes that the manifest says. A layer
    /// that registries need not hold is left out: its client knows where to get it.
    async fn members(&self, named: &[Descriptor]) -> Result<Vec<Member>, Stop> {
        let found: Vec<Option<Member>> = stream::iter(named.to_vec())
            .map(|descriptor| self.member(descriptor))
            .buffered(READS_IN_FLIGHT_MAX)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn member(&self, descriptor: Descriptor) -> Result<Option<Member>, Stop> {
        let digest = &descriptor.digest;
        if is_foreign(&descriptor.media_type) && self.registry.fronted(&self.repository).is_some() {
            return Ok(None);
        }
        let Some(pointer) = self.pointer(digest).await? else {
            if is_foreign(&descriptor.media_type) {
                return Ok(None);
            }
            let message = format!("manifest names {digest}, which is unknown");
            return Err(failed(ErrorCode::ManifestBlobUnknown, message));
        };
        if pointer.size != descriptor.size {
            let (said, is) = (descriptor.size, pointer.size);
            let message = format!("manifest says {said} bytes of a blob that has {is}");
            return Err(failed(ErrorCode::ManifestInvalid, message));
        }
        Ok(Some(Member { descriptor, pointer }))
    }

    /// Sends the small ones, each once.
    async fn send_inline(&self, members: &[Member]) -> Result<(), Stop> {
        let (mut small, mut seen) = (members.to_vec(), HashSet::new());
        small.retain(|member| {
            let fits = member.pointer.size <= self.asked.inline_bytes_max;
            fits && seen.insert(member.descriptor.digest)
        });
        let storage = self.registry.storage_of(&self.repository);
        let mut contents = stream::iter(small)
            .map(|Member { descriptor, pointer }| async move {
                let content = storage.inline(&descriptor.digest, &pointer).await;
                content.map(|content| (descriptor, content))
            })
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some((descriptor, content)) = contents.try_next().await? {
            self.registry.metrics.sent("inline").inc_by(content.len() as u64);
            let descriptor = Some((&descriptor).into());
            self.events.send(Event::Blob(rpc::InlineBlob { descriptor, content })).await?;
        }
        Ok(())
    }

    /// Sends the layers with their lists, in order.
    async fn send_layers(&self, layers: Vec<Member>) -> Result<(), Stop> {
        let storage = self.registry.storage_of(&self.repository);
        let mut listed = stream::iter(layers)
            .map(|Member { descriptor, pointer }| async move {
                let list = storage.piece_list(&descriptor.digest, &pointer).await;
                list.map(|list| (descriptor, list))
            })
            .buffered(READS_IN_FLIGHT_MAX);
        let mut index = 0;
        while let Some((descriptor, list)) = self.events.while_waiting(listed.try_next()).await?? {
            let form = rpc::LayerForm {
                kind: FORM_BLOB.to_owned(),
                descriptor: Some((&descriptor).into()),
                list: Some((*list).clone()),
            };
            let descriptor = Some((&descriptor).into());
            self.events
                .send(Event::Layer(rpc::PlanLayer { index, descriptor, forms: vec![form] }))
                .await?;
            index += 1;
        }
        Ok(())
    }

    /// Peers, then the origin's word for every blob that is a member here.
    async fn finish(&self, manifest: Digest, members: &[Member]) -> Result<(), Stop> {
        let swarmed: Vec<Digest> = members
            .iter()
            .filter(|member| member.pointer.size > self.asked.inline_bytes_max)
            .map(|member| member.descriptor.digest)
            .collect();
        let peers = self.registry.tracker.plan(&self.asked.session, &swarmed);
        if !peers.is_empty() {
            self.events.send(Event::Peers(rpc::Peers { peers })).await?;
        }
        let statement = PlanStatement {
            repository: self.repository.clone(),
            manifest,
            layers: members.iter().map(|member| member.descriptor.digest).collect(),
            issued_at_s: now_ms() / 1000,
            policy_epoch: 0,
        };
        let signature = self.registry.keys.signing().sign(&statement);
        let message = rpc::PlanStatement::from_statement(&statement, &signature);
        self.events.send(Event::Statement(message)).await
    }
}

/// The platform's manifest of an index.
fn choose(index: &Manifest, platform: &Platform) -> Result<Digest, Stop> {
    if let Some(chosen) = index.for_platform(platform) {
        return Ok(chosen.digest);
    }
    let entries = match index {
        Manifest::Index { manifests, .. } => manifests.as_slice(),
        Manifest::Image { .. } => &[],
    };
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let named: Vec<String> = platforms.take(PLATFORMS_NAMED_MAX).map(name).collect();
    let message = format!("index has nothing for {}, but: {}", name(platform), named.join(", "));
    Err(failed(ErrorCode::ManifestUnknown, message))
}

/// `linux/arm64/v8`
fn name(platform: &Platform) -> String {
    let Platform { os, architecture, variant } = platform;
    let slash = if variant.is_empty() { "" } else { "/" };
    format!("{os}/{architecture}{slash}{variant}")
}

/// Image-spec 1.1, "Non-Distributable Layers", and Docker's word for them.
fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

fn manifest_event(
    digest: &Digest,
    manifest: &StoredManifest,
    named: Option<Named<'_>>,
) -> rpc::PlanManifest {
    let descriptor = Descriptor {
        media_type: manifest.media_type.clone(),
        digest: *digest,
        size: manifest.content.len() as u64,
    };
    rpc::PlanManifest {
        descriptor: Some((&descriptor).into()),
        content: manifest.content.clone(),
        tag: named.map(|named| named.tag.to_string()).unwrap_or_default(),
        fresh_ms: named.map_or(0, |named| named.fresh_ms),
        stale: named.is_some_and(|named| named.stale),
    }
}

fn unanswered(error: UpstreamError) -> Stop {
    Stop::Failed(upstream_answer(error, || {
        ApiError::new(ErrorCode::ManifestUnknown, "manifest is unknown")
    }))
}

fn unknown_manifest() -> Stop {
    Stop::Failed(ApiError::new(ErrorCode::ManifestUnknown, "manifest is unknown"))
}
