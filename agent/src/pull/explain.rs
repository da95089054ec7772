//! What operators are told of pulls: where an image's bytes came from, and what is under way.

use longshore_proto::{Descriptor, Digest, ImageName, Reference};

use super::image::{Image, ImageLayer};
use super::ledger::Entries;
use super::puller::Puller;

/// How far a blob or an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullState {
    /// Nothing was asked for yet.
    Planned,
    /// Some pieces are still to come.
    Fetching,
    /// All pieces were verified and are here.
    Whole,
    /// It was given up a moment ago; containerd asked its next host.
    Failed,
    /// It was whole and has been evicted.
    Evicted,
}

/// An image and its layers.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The index or manifest.
    pub digest: Digest,
    /// The least advanced of its layers.
    pub state: PullState,
    /// In the order in which they are unpacked.
    pub layers: Vec<LayerExplanation>,
}

/// A layer, and where its bytes came from.
#[derive(Clone, Debug)]
pub struct LayerExplanation {
    /// As the manifest names it.
    pub descriptor: Descriptor,
    /// How far it is.
    pub state: PullState,
    /// How many pieces it has; a layer that came inside the plan is one.
    pub pieces: u32,
    /// How many of them were verified and are here.
    pub verified_pieces: u32,
    /// Its bytes by source.
    pub entries: Entries,
}

/// A pull, for the overview.
#[derive(Clone, Debug)]
pub struct PullStatus {
    /// `repository:tag` or `repository@digest`.
    pub image: String,
    /// How far it is.
    pub state: PullState,
    /// Sum of its layers.
    pub bytes_total: u64,
    /// Of these, verified and here.
    pub bytes_verified: u64,
}

impl PullState {
    /// As operators read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Fetching => "fetching",
            Self::Whole => "whole",
            Self::Failed => "failed",
            Self::Evicted => "evicted",
        }
    }
}

impl Puller {
    /// What became of an image; `None` when no pull of it is known.
    pub fn explain(&self, image: &ImageName) -> Option<Explanation> {
        let place = self.registries().place(Some(&image.registry), image.repository.clone())?;
        let digest = match &image.reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.images().tagged(&place, tag) {
                Some(image) => image.root,
                // Before a restart.
                None => self.store().tag(place.repository(), tag)?.digest,
            },
        };
        let image = self.images().find(&place, &digest)?;
        let layers: Vec<_> = image.layers.iter().map(|layer| self.explain_layer(layer)).collect();
        Some(Explanation { digest: image.root, state: overall(&image, &layers), layers })
    }

    /// The images that were started and are remembered, oldest first.
    pub fn pulls(&self) -> Vec<PullStatus> {
        let started = self.images().all().into_iter().filter(|image| image.is_started());
        started.map(|image| self.pull_status(&image)).collect()
    }

    fn pull_status(&self, image: &Image) -> PullStatus {
        let layers: Vec<_> = image.layers.iter().map(|layer| self.explain_layer(layer)).collect();
        let verified = image.layers.iter().map(|layer| self.verified_bytes(layer)).sum();
        let repository = image.place.repository();
        PullStatus {
            image: match image.tags().first() {
                Some(tag) => format!("{repository}:{tag}"),
                None => format!("{repository}@{}", image.root),
            },
            state: overall(image, &layers),
            bytes_total: layers.iter().map(|layer| layer.descriptor.size).sum(),
            bytes_verified: verified,
        }
    }

    fn verified_bytes(&self, layer: &ImageLayer) -> u64 {
        let descriptor = &layer.planned.descriptor;
        if layer.inline {
            return descriptor.size;
        }
        self.store().peek(&descriptor.digest).map_or(0, |blob| blob.held_bytes())
    }

    fn explain_layer(&self, layer: &ImageLayer) -> LayerExplanation {
        let descriptor = layer.planned.descriptor.clone();
        let entries = layer.ledger.entries();
        let (pieces, verified_pieces) = match &layer.planned.list {
            _ if layer.inline => (1, 1),
            None => (0, 0),
            Some(list) => {
                let held = self.store().peek(&descriptor.digest).map(|blob| blob.held().len());
                (list.list.pieces(), held.unwrap_or(0))
            }
        };
        let fetched = entries.elapsed() > std::time::Duration::ZERO || entries.local.pieces > 0;
        let state = if layer.planned.list.is_some() && verified_pieces == pieces || layer.inline {
            PullState::Whole
        } else if self.recent_failure(&descriptor.digest).is_some() {
            PullState::Failed
        } else if entries.is_finished() {
            PullState::Evicted
        } else if fetched {
            PullState::Fetching
        } else {
            PullState::Planned
        };
        LayerExplanation { descriptor, state, pieces, verified_pieces, entries }
    }
}

/// One word for all layers.
fn overall(image: &Image, layers: &[LayerExplanation]) -> PullState {
    let any = |state| layers.iter().any(|layer| layer.state == state);
    if any(PullState::Failed) {
        PullState::Failed
    } else if layers.iter().all(|layer| layer.state == PullState::Whole) {
        PullState::Whole
    } else if any(PullState::Fetching) || (image.is_started() && any(PullState::Planned)) {
        PullState::Fetching
    } else if any(PullState::Evicted) {
        PullState::Evicted
    } else {
        PullState::Planned
    }
}
