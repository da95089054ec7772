//! The asking half: pieces and plans from peers, leave and bytes from the origin.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::libp2p::PeerId;
use bytes::Bytes;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::swarm as wire;
use longshore_proto::{Digest, Reference};
use tokio_util::sync::CancellationToken;
use wire::control_message::Message;

use super::jobs::{self, ReadJob, Wrote};
use super::{Asked, CANCELLED_MAX, Driver, PlanAnswer};
use crate::origin::OriginError;
use crate::pull::ledger::OriginReason;
use crate::store::{BlobFailure, WriteError, Written};
use crate::swarm::engine::{
    FailReason, From, Input, Leave, PermitAsk, PermitReply, ReadEnd, ReadId, RequestId,
};
use crate::swarm::inbox::PlanQuestion;
use crate::swarm::transport::libp2p::multiaddr;

/// Digests in one WANT: 71 bytes each, well within a frame.
const DIGESTS_PER_MESSAGE: usize = 512;
/// Peers that are asked for a plan at once.
const PLAN_PEERS_MAX: usize = 8;
/// Requests for plans have numbers that no request for a piece has.
const PLAN_IDS: u64 = 1 << 63;

/// A peer was asked for a plan.
#[derive(Debug)]
pub(super) struct PlanAsked {
    pub(super) peer: PeerId,
    answer: PlanAnswer,
}

impl Driver {
    pub(super) fn ask_piece(
        &mut self,
        peer: PeerId,
        request: RequestId,
        digest: Digest,
        piece: PieceIndex,
    ) {
        let Some(wanted) = self.wanted.get(&digest) else { return };
        let message = wire::Request {
            id: request,
            repository: wanted.want.repository.to_string(),
            digest: digest.to_string(),
            piece_length: wanted.want.blob.list().list.piece_bytes(),
            piece: piece.0,
            grant: Bytes::new(),
        };
        self.asked.insert(request, Asked { peer, digest, piece });
        self.tell(peer, Message::Request(message));
    }

    pub(super) fn cancel(&mut self, peer: PeerId, request: RequestId, stalled: bool) {
        if stalled {
            self.metrics.stalled_requests.inc();
            self.stand(|standing| standing.stalled_requests += 1);
        }
        if self.asked.remove(&request).is_some() {
            if self.cancelled.len() >= CANCELLED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back((request, peer));
            self.tell(peer, Message::Cancel(wire::Cancel { id: request }));
        }
    }

    /// Whether the peer owed this; it owes it no longer.
    pub(super) fn answered(&mut self, peer: PeerId, request: RequestId) -> bool {
        let owed = self.asked.get(&request).is_some_and(|asked| asked.peer == peer);
        if owed {
            self.asked.remove(&request);
        }
        owed
    }

    pub(super) fn on_payload(&mut self, peer: PeerId, request: RequestId, payload: Bytes) {
        let bytes = payload.len() as u64;
        let asked = match self.asked.get(&request) {
            Some(asked) if asked.peer == peer => self.asked.remove(&request),
            _ => None,
        };
        if let Some(asked) = asked {
            let Some(wanted) = self.wanted.get(&asked.digest).map(Arc::clone) else {
                self.metrics.wasted_bytes.inc_by(bytes);
                return;
            };
            self.feed(Input::Arrived(request));
            let (from, why) = (From::Peer(peer), OriginReason::Permit);
            let piece = asked.piece;
            self.job(async move {
                jobs::Done::Wrote(jobs::write(wanted, piece, payload, from, why).await)
            });
        } else if let Some(asked) = self.plans.remove(&request).filter(|asked| asked.peer == peer) {
            let answer = asked.answer.lock().expect("nothing panics while it holds it").take();
            // Whoever asked may have stopped waiting.
            let _ = answer.map(|answer| answer.send(payload));
        } else {
            self.metrics.wasted_bytes.inc_by(bytes);
            let cancelled = self.cancelled.iter().position(|known| *known == (request, peer));
            if cancelled.and_then(|at| self.cancelled.remove(at)).is_none() {
                tracing::info!(%peer, "dropping a peer that sends what nobody asked for");
                self.disconnect(peer);
            }
        }
    }

    pub(super) fn on_wrote(&mut self, wrote: Wrote) {
        let Wrote { wanted, piece, from, why, bytes, result } = wrote;
        let (digest, ledger) = (wanted.want.blob.digest(), &wanted.want.ledger);
        let input = match result {
            Ok(Written::Fresh) => {
                match from {
                    From::Peer(peer) => {
                        self.metrics.received_bytes.inc_by(bytes);
                        ledger.from_peer(bytes, wanted.delivered(peer));
                    }
                    From::Store(_) => {
                        self.metrics.from_origin(why, bytes);
                        ledger.from_origin(why, bytes);
                    }
                }
                Input::Verified { digest, piece, from }
            }
            Ok(Written::AlreadyHeld) => {
                self.metrics.wasted_bytes.inc_by(bytes);
                ledger.wasted(bytes);
                Input::Verified { digest, piece, from }
            }
            Err(WriteError::Bad(error)) => {
                self.metrics.wasted_bytes.inc_by(bytes);
                ledger.wasted(bytes);
                tracing::warn!(digest = digest.fmt_short(), ?from, %error, "refused a piece");
                if let From::Peer(_) = from {
                    self.metrics.bad_pieces.inc();
                    self.stand(|standing| standing.bad_pieces += 1);
                } else {
                    self.metrics.origin_bad_pieces.inc();
                }
                Input::Bad { digest, piece, from }
            }
            Err(WriteError::Full) => {
                wanted.refuse(BlobFailure::Full);
                Input::WriteFailed { digest, piece, from }
            }
            Err(WriteError::Io(error)) => {
                wanted.refuse(BlobFailure::Store(error.to_string()));
                Input::WriteFailed { digest, piece, from }
            }
        };
        self.feed(input);
    }

    pub(super) fn fail(&mut self, digest: &Digest, why: FailReason) {
        let Some(wanted) = self.wanted.remove(digest) else { return };
        let no_progress = BlobFailure::NoProgress(self.config.limits().give_up);
        let failure = match why {
            FailReason::NoProgress => no_progress,
            FailReason::BadOrigin => BlobFailure::Denied("its bytes are not the blob's".into()),
            FailReason::Closed | FailReason::Write => wanted.refusal().unwrap_or(no_progress),
        };
        tracing::warn!(digest = digest.fmt_short(), %failure, "gave up a blob");
        wanted.want.blob.fail(failure);
    }

    pub(super) fn read(
        &mut self,
        read: ReadId,
        digest: Digest,
        (first, pieces): (PieceIndex, u32),
        why: OriginReason,
        permit: Option<rpc::PiecePermit>,
        inputs: &mut VecDeque<Input>,
    ) {
        let Some(wanted) = self.wanted.get(&digest).map(Arc::clone) else {
            inputs.push_back(Input::ReadEnded { read, end: ReadEnd::Unavailable });
            return;
        };
        let cancel = CancellationToken::new();
        self.reads.insert(read, cancel.clone());
        let job = ReadJob { read, wanted, first, pieces, why, permit };
        let (origin, done) = (Arc::clone(&self.origin), self.done.clone());
        self.jobs.spawn(jobs::read(origin, job, done, cancel));
    }

    pub(super) fn ask_permits(&mut self, ask: &PermitAsk) {
        let wants = ask.wants.iter().filter_map(|want| {
            let wanted = &self.wanted.get(&want.digest)?.want;
            Some(rpc::PermitWant {
                repository: wanted.repository.to_string(),
                digest: want.digest.to_string(),
                size: wanted.blob.size(),
                piece_length: wanted.blob.list().list.piece_bytes(),
                have_bitmap: want.held.to_bitmap().into(),
                urgent: want.urgent.iter().map(|piece| piece.0).collect(),
            })
        });
        let request = rpc::PermitRequest {
            wants: wants.collect(),
            held: held_permits(&ask.held),
            unreachable: reports(&ask.unreachable),
            pieces_max: ask.pieces_max,
        };
        self.job(jobs::permits(Arc::clone(&self.origin), request));
    }

    pub(super) fn on_permits(&mut self, answer: Result<rpc::PermitResponse, OriginError>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "no answer from the tracker");
                let retry_after = match error {
                    OriginError::Busy { retry_after } => Some(retry_after),
                    _ => None,
                };
                self.feed(Input::PermitsFailed { retry_after });
                return;
            }
        };
        let mut refusals = Vec::new();
        for refusal in &answer.refusals {
            refusal.holders.iter().for_each(|holder| self.learn(holder));
            let holders = refusal.holders.iter().filter_map(|peer| peer.peer_id.parse().ok());
            if let Ok(digest) = refusal.digest.parse() {
                refusals.push((digest, PieceIndex(refusal.piece), holders.collect()));
            }
        }
        let wait = Duration::from_millis(u64::from(answer.retry_after_ms));
        let retry_after = Some(wait).filter(|wait| !wait.is_zero());
        let permits = answer.permits.into_iter().filter_map(leave).collect();
        self.feed(Input::Permits(PermitReply { permits, refusals, retry_after }));
    }

    pub(super) fn announce(&mut self) {
        let mut request = self.announcer.next(&self.store);
        request.wanted_digests = self.wanted.keys().map(Digest::to_string).collect();
        request.permits = held_permits(&self.engine.held_permits());
        request.unreachable = reports(&self.engine.take_reports());
        request.addresses = self.advertised();
        self.job(jobs::announce(Arc::clone(&self.origin), request));
    }

    /// What others can dial. Where that is not known, nothing: the join told the port, and the
    /// origin saw the address.
    fn advertised(&self) -> Vec<String> {
        let local = self.transport.as_ref().map(|transport| transport.local_addr());
        let known = |addr: &SocketAddr| !addr.ip().is_unspecified();
        let addr = self.config.advertise.or(local).filter(known);
        addr.map(|addr| multiaddr(addr).to_string()).into_iter().collect()
    }

    pub(super) fn on_announced(&mut self, answer: Result<rpc::AnnounceResponse, OriginError>) {
        match answer {
            Ok(answer) => {
                self.announcer.taken(&answer);
                answer.peers.iter().chain(&answer.members).for_each(|peer| self.learn(peer));
            }
            Err(error) => {
                tracing::debug!(%error, "announce lost");
                self.announcer.lost();
            }
        }
    }

    pub(super) fn tell_want(&self, peers: &[PeerId], digests: &[Digest]) {
        for digests in digests.chunks(DIGESTS_PER_MESSAGE) {
            let digests: Vec<String> = digests.iter().map(Digest::to_string).collect();
            for peer in peers {
                self.tell(*peer, Message::Want(wire::Want { digests: digests.clone() }));
            }
        }
    }

    pub(super) fn on_have(&mut self, peer: PeerId, have: &wire::BlobHave) {
        let Ok(digest) = have.digest.parse::<Digest>() else { return };
        let Some(wanted) = self.wanted.get(&digest) else { return };
        let list = &wanted.want.blob.list().list;
        if have.piece_length == list.piece_bytes() && have.size == list.size() {
            let runs = have.runs.iter().map(|run| (PieceIndex(run.first), run.pieces)).collect();
            self.feed(Input::Have { peer, digest, runs });
        }
    }

    /// Asks some peers at once; the first answer counts.
    pub(super) fn ask_plan(&mut self, question: PlanQuestion) {
        let peers: Vec<PeerId> = {
            let standing = self.standing.lock().expect("nothing panics while it holds it");
            standing.peers.keys().take(PLAN_PEERS_MAX).copied().collect()
        };
        self.plans.retain(|_, asked| asked.is_awaited());
        let answer: PlanAnswer = Arc::new(Mutex::new(Some(question.answer)));
        for peer in peers {
            self.next_plan += 1;
            let id = PLAN_IDS | self.next_plan;
            self.plans.insert(id, PlanAsked { peer, answer: Arc::clone(&answer) });
            let repository = question.repository.to_string();
            let reference = match &question.reference {
                Reference::Tag(tag) => tag.as_str().to_owned(),
                Reference::Digest(digest) => digest.to_string(),
            };
            self.tell(peer, Message::PlanAsk(wire::PlanAsk { id, repository, reference }));
        }
    }
}

impl PlanAsked {
    fn is_awaited(&self) -> bool {
        let answer = self.answer.lock().expect("nothing panics while it holds it");
        answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }
}

/// Leave as the engine takes it; `None` where it names no blob.
pub(super) fn leave(permit: rpc::PiecePermit) -> Option<Leave> {
    let digest = permit.digest.parse().ok()?;
    Some(Leave { digest, permit: Arc::new(permit) })
}

fn held_permits(held: &[(Digest, PieceIndex, u64)]) -> Vec<rpc::HeldPermit> {
    let message = |(digest, piece, permit_id): &(Digest, PieceIndex, u64)| rpc::HeldPermit {
        digest: digest.to_string(),
        piece: piece.0,
        permit_id: *permit_id,
    };
    held.iter().map(message).collect()
}

fn reports(reports: &[(PeerId, Digest, PieceIndex)]) -> Vec<rpc::Unreachable> {
    let message = |(peer, digest, piece): &(PeerId, Digest, PieceIndex)| rpc::Unreachable {
        peer_id: peer.to_string(),
        digest: digest.to_string(),
        piece: piece.0,
    };
    reports.iter().map(message).collect()
}
