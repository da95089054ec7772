//! The serving half: what peers ask of this node.
//!
//! A piece is served only where the blob is held under the repository that the peer names, by a
//! plan that the origin signed. Whether the peer itself may read that repository is not asked yet:
//! that comes with fleet certificates and grants.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ::libp2p::PeerId;
use bytes::Bytes;
use longshore_proto::piece::{PIECE_BYTES_MAX, PieceIndex};
use longshore_proto::rpc::swarm as wire;
use longshore_proto::{Digest, Reference, RepositoryName};
use wire::control_message::Message;
use wire::refused::Reason;

use super::Driver;
use super::jobs::{self, Done};
use crate::store::{ReadError, StoredBlob};
use crate::swarm::engine::Input;

/// Runs in one HAVE: at most 12 bytes each, well within a frame.
const RUNS_PER_MESSAGE: usize = 4096;
/// Plans that are looked up for peers at the same time.
const PLANS_MAX: usize = 4;

/// Uploads between their request and their end.
#[derive(Debug)]
pub(super) struct Serving {
    uploads: BTreeMap<(PeerId, u64), Upload>,
    plans: usize,
    faults: TestFaults,
}

#[derive(Debug)]
struct Upload {
    blob: Arc<StoredBlob>,
    repository: RepositoryName,
    piece: PieceIndex,
}

/// How this node misbehaves towards its peers, in tests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TestFaults {
    /// Flips a bit in every piece that it serves.
    pub(crate) corrupt_uploads: bool,
    /// Takes requests and never sends.
    pub(crate) stall_uploads: bool,
}

impl TestFaults {
    /// As the environment of a test build says; elsewhere none.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn from_env() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
        Self {
            corrupt_uploads: set("LONGSHORE_TEST_CORRUPT_UPLOADS"),
            stall_uploads: set("LONGSHORE_TEST_STALL_UPLOADS"),
        }
    }

    /// As the environment of a test build says; elsewhere none.
    #[cfg(not(feature = "test-hooks"))]
    pub(crate) fn from_env() -> Self {
        Self::default()
    }
}

impl Serving {
    pub(super) const fn new(faults: TestFaults) -> Self {
        Self { uploads: BTreeMap::new(), plans: 0, faults }
    }

    pub(super) fn forget(&mut self, peer: PeerId, request: u64) {
        self.uploads.remove(&(peer, request));
    }

    pub(super) fn gone(&mut self, peer: PeerId) {
        self.uploads.retain(|(to, _), _| *to != peer);
    }
}

impl Driver {
    pub(super) fn on_request(&mut self, peer: PeerId, request: &wire::Request) {
        match self.find(request) {
            Ok(upload) => {
                // A number that is taken is the peer's mistake; the later request counts.
                self.serving.uploads.insert((peer, request.id), upload);
                self.feed(Input::Upload { peer, request: request.id });
            }
            Err(reason) => self.refuse(peer, request.id, reason),
        }
    }

    fn find(&self, request: &wire::Request) -> Result<Upload, Reason> {
        let malformed = |_| Reason::Malformed;
        let digest: Digest = request.digest.parse().map_err(malformed)?;
        let repository: RepositoryName =
            request.repository.parse().map_err(|_| Reason::Malformed)?;
        let blob = self.store.blob(&digest).ok_or(Reason::NotHeld)?;
        let piece = PieceIndex(request.piece);
        let list = blob.list();
        if list.list.piece_bytes() != request.piece_length || list.list.range(piece).is_none() {
            return Err(Reason::Malformed);
        }
        if !blob.repositories().contains(&repository) {
            return Err(Reason::Denied);
        }
        if list.provisional || !blob.holds(piece) {
            return Err(Reason::NotHeld);
        }
        Ok(Upload { blob, repository, piece })
    }

    fn refuse(&self, peer: PeerId, id: u64, reason: Reason) {
        self.metrics.refused_requests.inc();
        self.tell(peer, Message::Refused(wire::Refused { id, reason: reason.into() }));
    }

    /// The engine accepts an upload.
    pub(super) fn load(&mut self, peer: PeerId, request: u64, inputs: &mut VecDeque<Input>) {
        let Some(upload) = self.serving.uploads.get(&(peer, request)) else {
            inputs.push_back(Input::UploadEnded { peer, request });
            return;
        };
        if !self.serving.faults.stall_uploads {
            let (blob, piece) = (Arc::clone(&upload.blob), upload.piece);
            self.job(jobs::load(blob, piece, peer, request));
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        peer: PeerId,
        request: u64,
        piece: Result<Bytes, ReadError>,
    ) {
        if !self.serving.uploads.contains_key(&(peer, request)) {
            self.feed(Input::UploadEnded { peer, request });
            return;
        }
        let sent = match (piece, &self.transport) {
            (Ok(payload), Some(transport)) => {
                let payload =
                    if self.serving.faults.corrupt_uploads { flip(payload) } else { payload };
                transport.send_piece(peer, request, payload).map_err(|error| error.to_string())
            }
            (Err(error), _) => Err(error.to_string()),
            (Ok(_), None) => Err("the swarm is off".into()),
        };
        if let Err(error) = sent {
            tracing::debug!(%peer, error, "could not serve a piece");
            self.serving.forget(peer, request);
            self.refuse(peer, request, Reason::NotHeld);
            self.feed(Input::UploadEnded { peer, request });
        }
    }

    pub(super) fn on_sent(&mut self, peer: PeerId, request: u64, bytes: u64) {
        if let Some(upload) = self.serving.uploads.remove(&(peer, request)) {
            self.metrics.sent_bytes.inc_by(bytes);
            let digest = upload.blob.digest();
            self.announcer.served(upload.repository, digest, peer, bytes);
            self.feed(Input::UploadProgress { peer });
            self.feed(Input::UploadEnded { peer, request });
        }
    }

    pub(super) fn on_cancel(&mut self, peer: PeerId, request: u64) {
        if let Some(transport) = &self.transport {
            transport.cancel_piece(peer, request);
        }
        self.serving.forget(peer, request);
        self.feed(Input::UploadEnded { peer, request });
    }

    pub(super) fn tell_have(
        &self,
        peers: &[PeerId],
        digest: &Digest,
        runs: Option<Vec<(PieceIndex, u32)>>,
    ) {
        let Some(blob) = self.store.blob(digest).filter(|blob| !blob.list().provisional) else {
            return;
        };
        let Some(repository) = blob.repositories().into_iter().next() else { return };
        let runs = runs.unwrap_or_else(|| blob.held().runs());
        for runs in runs.chunks(RUNS_PER_MESSAGE) {
            let runs = runs
                .iter()
                .map(|(first, pieces)| wire::PieceRun { first: first.0, pieces: *pieces });
            let have = wire::BlobHave {
                repository: repository.to_string(),
                digest: digest.to_string(),
                size: blob.size(),
                piece_length: blob.list().list.piece_bytes(),
                runs: runs.collect(),
            };
            for peer in peers {
                self.tell(*peer, Message::Have(wire::Have { blobs: vec![have.clone()] }));
            }
        }
    }

    pub(super) fn on_plan_ask(&mut self, peer: PeerId, ask: wire::PlanAsk) {
        let (repository, reference) = (ask.repository.parse(), ask.reference.parse());
        let (Ok(repository), Ok(reference)) = (repository, reference) else {
            self.refuse(peer, ask.id, Reason::Malformed);
            return;
        };
        if self.serving.plans >= PLANS_MAX {
            self.refuse(peer, ask.id, Reason::Unspecified);
            return;
        }
        self.serving.plans += 1;
        let store = self.store.clone();
        let (repository, reference): (RepositoryName, Reference) = (repository, reference);
        self.job(async move {
            let find = move || store.relayed_plan(&repository, &reference);
            let found = tokio::task::spawn_blocking(find).await.ok().flatten();
            let fits = |plan: &Bytes| plan.len() as u64 <= PIECE_BYTES_MAX;
            Done::Plan { peer, request: ask.id, plan: found.filter(fits) }
        });
    }

    pub(super) fn on_plan_found(&mut self, peer: PeerId, request: u64, plan: Option<Bytes>) {
        self.serving.plans = self.serving.plans.saturating_sub(1);
        let sent = match (plan, &self.transport) {
            (Some(plan), Some(transport)) => transport.send_piece(peer, request, plan).is_ok(),
            _ => false,
        };
        if !sent {
            self.refuse(peer, request, Reason::NotHeld);
        }
    }
}

/// The payload with one bit changed.
fn flip(payload: Bytes) -> Bytes {
    let mut wrong = payload.to_vec();
    if let Some(byte) = wrong.first_mut() {
        *byte ^= 1;
    }
    wrong.into()
}
