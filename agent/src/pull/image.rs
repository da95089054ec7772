//! Images that were planned: what `longshore explain` tells, and what a manifest's GET starts.
//!
//! Owns the records of the last [`IMAGES_MAX`] images and the ledgers of their blobs. Two images
//! that share a layer share its ledger.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Descriptor, Digest, Tag};

use super::ledger::{BlobLedger, OriginReason};
use super::place::Place;
use super::plan::{Plan, PlannedLayer};

/// Most images that are remembered.
pub const IMAGES_MAX: usize = 256;

/// An image, or a blob that was asked for alone.
#[derive(Debug)]
pub struct Image {
    /// Where it was asked for.
    pub place: Place,
    /// What it was asked for as: the index or manifest, or the blob.
    pub root: Digest,
    /// All its manifests, the root first; empty for a blob.
    pub manifests: Vec<Digest>,
    /// In the order in which they are unpacked.
    pub layers: Vec<ImageLayer>,
    tags: Mutex<Vec<Tag>>,
    permits: Mutex<Vec<rpc::PiecePermit>>,
    /// 0 until it is started.
    order: AtomicU64,
}

/// A layer and the record of its bytes.
#[derive(Debug)]
pub struct ImageLayer {
    /// As the manifest names it, with its list where it has one.
    pub planned: PlannedLayer,
    /// Came inside the plan: there is nothing to fetch.
    pub inline: bool,
    /// Where its bytes came from.
    pub ledger: Arc<BlobLedger>,
}

/// Who told a plan: its small blobs came from there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanSource {
    /// The origin, just now.
    Origin,
    /// A peer, because the origin is out.
    Peer,
    /// It was kept from an earlier pull.
    Disk,
}

/// The images, newest last.
#[derive(Debug, Default)]
pub struct Images(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    images: VecDeque<Arc<Image>>,
    ledgers: HashMap<Digest, Weak<BlobLedger>>,
    orders: u64,
}

impl Image {
    /// The tags under which it was asked for.
    pub fn tags(&self) -> Vec<Tag> {
        self.locked_tags().clone()
    }

    /// Notes a tag that means this image.
    pub fn add_tag(&self, tag: &Tag) {
        let mut tags = self.locked_tags();
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }

    /// Whether anything of it was fetched, or began to be.
    pub fn is_started(&self) -> bool {
        self.order.load(Ordering::Relaxed) > 0
    }

    /// The permits that came with the plan, once.
    pub fn take_permits(&self) -> Vec<rpc::PiecePermit> {
        std::mem::take(&mut *self.permits.lock().expect("nothing panics while it holds them"))
    }

    /// Its layer of this digest.
    pub fn layer(&self, digest: &Digest) -> Option<(usize, &ImageLayer)> {
        let mut layers = self.layers.iter().enumerate();
        layers.find(|(_, layer)| layer.planned.descriptor.digest == *digest)
    }

    fn locked_tags(&self) -> MutexGuard<'_, Vec<Tag>> {
        self.tags.lock().expect("nothing panics while it holds the tags")
    }
}

impl Images {
    /// Remembers a plan's image; where it is known already, the known one.
    pub fn remember(
        &self,
        place: &Place,
        root: Digest,
        plan: &Plan,
        source: PlanSource,
    ) -> Arc<Image> {
        let mut known = self.locked();
        if let Some(image) = known.find(place, &root) {
            image
                .permits
                .lock()
                .expect("nothing panics while it holds them")
                .clone_from(&plan.permits);
            return image;
        }
        known.ledgers.retain(|_, ledger| ledger.strong_count() > 0);
        let inline: HashMap<Digest, &Descriptor> =
            plan.inline.iter().map(|(d, _)| (d.digest, d)).collect();
        let layers = plan.layers.iter().map(|planned| {
            let digest = planned.descriptor.digest;
            let inline = inline.contains_key(&digest);
            let ledger = known.ledger(&digest);
            if inline {
                note_inline(&ledger, planned.descriptor.size, source);
            }
            ImageLayer { planned: planned.clone(), inline, ledger }
        });
        let image = Arc::new(Image {
            place: place.clone(),
            root,
            manifests: plan.manifests.iter().map(|(d, _)| d.digest).collect(),
            layers: layers.collect(),
            tags: Mutex::default(),
            permits: Mutex::new(plan.permits.clone()),
            order: AtomicU64::new(0),
        });
        known.images.push_back(Arc::clone(&image));
        if known.images.len() > IMAGES_MAX {
            known.images.pop_front();
        }
        image
    }

    /// The image that this manifest, or blob asked for alone, belongs to.
    pub fn find(&self, place: &Place, digest: &Digest) -> Option<Arc<Image>> {
        self.locked().find(place, digest)
    }

    /// The image and the layer of this digest, the newest image first.
    pub fn find_layer(&self, place: &Place, digest: &Digest) -> Option<Arc<Image>> {
        let known = self.locked();
        let here = |image: &&Arc<Image>| image.place == *place && image.layer(digest).is_some();
        known.images.iter().rev().find(here).cloned()
    }

    /// The image that a tag means, as far as it was asked for here.
    pub fn tagged(&self, place: &Place, tag: &Tag) -> Option<Arc<Image>> {
        let known = self.locked();
        let meant =
            |image: &&Arc<Image>| image.place == *place && image.locked_tags().contains(tag);
        known.images.iter().rev().find(meant).cloned()
    }

    /// The record of a blob's bytes.
    pub fn ledger(&self, digest: &Digest) -> Arc<BlobLedger> {
        self.locked().ledger(digest)
    }

    /// All images, oldest first.
    pub fn all(&self) -> Vec<Arc<Image>> {
        self.locked().images.iter().cloned().collect()
    }

    /// The image's place in the order of starts, given at its first start.
    pub fn start_order(&self, image: &Image) -> u64 {
        let mut known = self.locked();
        if image.order.load(Ordering::Relaxed) == 0 {
            known.orders += 1;
            image.order.store(known.orders, Ordering::Relaxed);
        }
        image.order.load(Ordering::Relaxed)
    }

    /// A tag now means `image` and no other of its repository.
    pub fn set_tag(&self, image: &Image, tag: &Tag) {
        for other in &self.locked().images {
            if other.place == image.place && other.root != image.root {
                other.locked_tags().retain(|known| known != tag);
            }
        }
        image.add_tag(tag);
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("nothing panics while it holds the images")
    }
}

/// A small layer came with the plan; what it is noted as first stands.
fn note_inline(ledger: &BlobLedger, bytes: u64, source: PlanSource) {
    if ledger.entries().is_finished() {
        return;
    }
    match source {
        PlanSource::Origin => ledger.from_origin(OriginReason::Inline, bytes),
        PlanSource::Peer => ledger.from_peer(bytes, true),
        PlanSource::Disk => ledger.was_local(bytes),
    }
    ledger.start();
    ledger.finish();
}

impl Known {
    fn find(&self, place: &Place, digest: &Digest) -> Option<Arc<Image>> {
        let here = |image: &&Arc<Image>| {
            image.place == *place && (image.root == *digest || image.manifests.contains(digest))
        };
        self.images.iter().rev().find(here).cloned()
    }

    fn ledger(&mut self, digest: &Digest) -> Arc<BlobLedger> {
        if let Some(ledger) = self.ledgers.get(digest).and_then(Weak::upgrade) {
            return ledger;
        }
        let ledger = Arc::new(BlobLedger::default());
        self.ledgers.insert(*digest, Arc::downgrade(&ledger));
        ledger
    }
}
