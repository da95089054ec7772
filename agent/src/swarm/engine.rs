//! The swarm's engine: which piece is asked of whom, when the store is read, what others get.
//!
//! Owns every decision and nothing else. It does no I/O and has no clock and no randomness of its
//! own: time comes with each input, as the time since the engine began, and ties are broken by a
//! seed. Equal inputs give equal outputs, so that the daemon and a simulator of thousands of nodes
//! run the same code. No input costs more than a look at the peers and a few pieces. It ends when
//! it is dropped.

mod event;
mod limits;
mod peers;
mod pool;
mod requests;
#[cfg(test)]
mod sim;
mod source;
mod uploads;

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

pub use event::{
    DropReason, FailReason, From, Input, Leave, Output, PermitAsk, PermitReply, PermitWant,
    ReadEnd, ReadId, RequestId, WantBlob,
};
pub use limits::Limits;

use self::peers::{Peers, Slot};
use self::pool::{Pool, Rank};
use self::requests::Request;
use self::source::Source;
use self::uploads::Uploads;

/// How often time must pass for the engine while it fetches.
const TICK: Duration = Duration::from_millis(50);
/// How often otherwise.
const TICK_IDLE: Duration = Duration::from_secs(1);

/// Decides for one node.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    seed: u64,
    pool: Pool,
    peers: Peers,
    requests: BTreeMap<RequestId, Request>,
    verifying: usize,
    cursors: BTreeMap<(Digest, u64), Cursor>,
    source: Source,
    uploads: Uploads,
    next_id: u64,
    /// When the pool last moved.
    moved_at: Duration,
    /// The last piece that came was read without leave because nothing moved.
    stalling: bool,
    ticked_at: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    piece: PieceIndex,
    since: Duration,
}

impl Engine {
    /// An engine that wants nothing yet. Nodes should differ in `seed`.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            pool: Pool::default(),
            peers: Peers::new(seed),
            requests: BTreeMap::new(),
            verifying: 0,
            cursors: BTreeMap::new(),
            source: Source::default(),
            uploads: Uploads::default(),
            next_id: 1,
            moved_at: Duration::ZERO,
            stalling: false,
            ticked_at: Duration::ZERO,
        }
    }

    /// Takes an input in and appends what is to be done. `now` never goes back.
    pub fn handle(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) {
        let schedule = self.take(now, input, out);
        if schedule {
            self.ask_peers(now, out);
            self.ask_tracker(now, out);
            self.start_reads(now, out);
        }
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn tick_at(&self) -> Duration {
        let tick = if self.pool.is_empty() { TICK_IDLE } else { TICK };
        self.tell_at().map_or(Duration::MAX, |at| at).min(self.ticked_at + tick)
    }

    /// Blobs that are being fetched, in the order of want.
    pub fn wanted(&self) -> Vec<Digest> {
        self.pool.digests()
    }

    /// Leave that is not used up yet: blob, piece, the permit's id.
    pub fn held_permits(&self) -> Vec<(Digest, PieceIndex, u64)> {
        self.held_leave()
    }

    /// Reports of holders that did not serve, for whoever talks to the tracker next.
    pub fn take_reports(&mut self) -> Vec<(PeerId, Digest, PieceIndex)> {
        self.source.take_reports()
    }

    /// Returns whether there may be something new to decide.
    fn take(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) -> bool {
        match input {
            Input::Want(want) => self.on_want(now, want, out),
            Input::Unwant(digest) => self.drop_blob(&digest, out),
            Input::Cursor { digest, client, piece } => self.on_cursor(now, digest, client, piece),
            Input::Meet { peer, same_zone } => {
                self.peers.meet(peer, same_zone);
                return false;
            }
            Input::PeerUp { peer, same_zone } => self.on_peer_up(now, peer, same_zone, out),
            Input::PeerDown(peer) => self.on_peer_down(now, &peer),
            Input::DialFailed(peer) => {
                for (digest, piece) in self.peers.dial_failed(now, &peer) {
                    self.source.report(peer, digest, piece);
                }
            }
            Input::Have { peer, digest, runs } => self.on_have(&peer, &digest, &runs),
            Input::Forget { peer, digest } => {
                if let Some(slot) = self.peers.slot(&peer) {
                    self.pool.forget(slot, Some(&digest));
                }
            }
            Input::Interest { peer, digests } => {
                if let Some(slot) = self.peers.slot(&peer) {
                    self.on_interest(slot, digests, out);
                }
                return false;
            }
            Input::Progress { peer, bytes } => {
                self.moved_at = now;
                if let Some(peer) = self.peer_mut(&peer) {
                    peer.progress(now, bytes);
                }
                return false;
            }
            Input::Arrived(request) => self.on_arrived(now, request),
            Input::Busy(request) => self.on_busy(now, request),
            Input::Refused(request) => self.on_refused(request),
            Input::Verified { digest, piece, from } => {
                self.on_verified(now, digest, piece, from, out);
            }
            Input::Bad { digest, piece, from } => self.on_bad(now, digest, piece, from, out),
            Input::WriteFailed { digest, piece, from } => {
                self.settle_piece(&digest, piece, from);
                self.fail(&digest, FailReason::Write, out);
            }
            Input::Permits(reply) => self.on_permits(now, reply),
            Input::PermitsFailed { retry_after } => self.on_permits_failed(now, retry_after),
            Input::Granted(leaves) => {
                self.on_granted(now, leaves);
            }
            Input::ReadProgress { read, bytes } => self.on_read_progress(now, read, bytes),
            Input::ReadEnded { read, end } => {
                self.on_read_ended(now, read, end);
                self.fail_closed(out);
            }
            Input::Upload { peer, request } => {
                let accepted = match self.peers.slot(&peer) {
                    Some(slot) => self.on_upload(now, slot, request),
                    None => return false,
                };
                out.push(if accepted {
                    Output::Serve { peer, request }
                } else {
                    Output::TellBusy { peer, request }
                });
                return false;
            }
            Input::UploadProgress { peer } => {
                if let Some(slot) = self.peers.slot(&peer) {
                    self.on_upload_progress(now, slot);
                }
                return false;
            }
            Input::UploadEnded { peer, request } => {
                if let Some(slot) = self.peers.slot(&peer) {
                    self.on_upload_ended(slot, request);
                }
                return false;
            }
            Input::Tick => self.on_tick(now, out),
        }
        true
    }

    fn on_want(&mut self, now: Duration, want: WantBlob, out: &mut Vec<Output>) {
        let digest = want.digest;
        if self.pool.is_empty() {
            self.moved_at = now;
        }
        if self.pool.add(want) {
            self.news_of_want(now, digest);
            self.source.hurry();
            self.finish_if_whole(&digest, out);
        }
    }

    fn on_cursor(&mut self, now: Duration, digest: Digest, client: u64, piece: Option<PieceIndex>) {
        match piece {
            Some(piece) => {
                let before = self.cursors.insert((digest, client), Cursor { piece, since: now });
                if let Some(same) = before.filter(|before| before.piece == piece) {
                    self.cursors.insert((digest, client), same);
                } else {
                    self.source.hurry();
                }
            }
            None => {
                self.cursors.remove(&(digest, client));
            }
        }
    }

    /// Pieces that clients wait for, in the order of want.
    fn urgent(&self) -> Vec<Rank> {
        let mut urgent: Vec<Rank> = self.waiting().into_iter().map(|(rank, _)| rank).collect();
        urgent.dedup();
        urgent
    }

    /// The same, with the time since which nothing came for it; the longest wait of each first.
    fn waiting(&self) -> Vec<(Rank, Duration)> {
        let mut waiting: Vec<(Rank, Duration)> = self
            .cursors
            .iter()
            .filter_map(|((digest, _), cursor)| {
                let key = self.pool.key(digest)?;
                let lacks = self.pool.blob(key)?.lacks(cursor.piece.0);
                let rank = self.pool.rank(key, cursor.piece.0).filter(|_| lacks)?;
                Some((rank, self.moved_at(rank).map_or(cursor.since, |at| at.max(cursor.since))))
            })
            .collect();
        waiting.sort();
        waiting
    }

    fn on_peer_up(&mut self, now: Duration, peer: PeerId, zone: bool, out: &mut Vec<Output>) {
        let Some(slot) = self.peers.connect(now, peer, zone, &self.limits) else {
            out.push(Output::Drop { peer, why: DropReason::Idle });
            return;
        };
        // A connection that replaces another starts from nothing.
        self.release_slot(slot);
        let digests = self.pool.digests();
        if !digests.is_empty() {
            out.push(Output::TellWant { peers: vec![peer], digests });
        }
    }

    fn on_peer_down(&mut self, now: Duration, peer: &PeerId) {
        if let Some(slot) = self.peers.slot(peer) {
            self.release_slot(slot);
        }
        self.peers.disconnect(now, peer);
    }

    fn release_slot(&mut self, slot: Slot) {
        for request in self.owed_by(slot) {
            let mut nobody_to_tell = Vec::new();
            self.cancel(request, false, &mut nobody_to_tell);
        }
        self.pool.forget(slot, None);
        self.forget_interest(slot);
    }

    fn on_have(&mut self, peer: &PeerId, digest: &Digest, runs: &[(PieceIndex, u32)]) {
        let Some(slot) = self.peers.slot(peer) else { return };
        let Some(key) = self.pool.key(digest) else { return };
        let pieces = self.pool.blob(key).map_or(0, |blob| blob.pieces.len() as u32);
        for (first, count) in runs {
            let end = first.0.saturating_add(*count).min(pieces);
            for piece in first.0..end {
                self.pool.edit(key, piece, |known| known.holders |= slot.bit());
            }
        }
    }

    fn settle_piece(&mut self, digest: &Digest, piece: PieceIndex, from: From) -> Option<u32> {
        let key = self.pool.key(digest);
        self.settle_verification(key, piece.0, from);
        if let From::Store(read) = from {
            self.settle_read(read, piece.0);
        }
        key
    }

    fn on_verified(
        &mut self,
        now: Duration,
        digest: Digest,
        piece: PieceIndex,
        from: From,
        out: &mut Vec<Output>,
    ) {
        self.moved_at = now;
        self.redeem(from);
        self.stalling &= matches!(from, From::Store(read) if self.is_stall_read(read));
        let key = self.settle_piece(&digest, piece, from);
        let Some(key) = key else { return };
        if self.pool.hold(key, piece.0) {
            self.news(now, digest, piece);
            self.cancel_rivals(key, piece.0, out);
            self.finish_if_whole(&digest, out);
        }
    }

    fn on_bad(
        &mut self,
        now: Duration,
        digest: Digest,
        piece: PieceIndex,
        from: From,
        out: &mut Vec<Output>,
    ) {
        let key = self.settle_piece(&digest, piece, from);
        match (from, key) {
            (From::Peer(peer), _) => {
                self.source.report(peer, digest, piece);
                self.expel(now, peer, DropReason::Bad, self.limits.ban, out);
            }
            (From::Store(_), Some(key)) => self.on_bad_read(key, out),
            (From::Store(_), None) => {}
        }
    }

    fn finish_if_whole(&mut self, digest: &Digest, out: &mut Vec<Output>) {
        let blob = self.pool.key(digest).and_then(|key| self.pool.blob(key));
        if blob.is_some_and(|blob| blob.held.is_full()) {
            self.drop_blob(digest, out);
            out.push(Output::Done(*digest));
        }
    }

    fn drop_blob(&mut self, digest: &Digest, out: &mut Vec<Output>) {
        let Some(key) = self.pool.key(digest) else { return };
        let its = self.requests.iter().filter(|(_, request)| request.key == key);
        for request in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cancel(request, false, out);
        }
        self.cancel_reads(key, out);
        self.pool.remove(digest);
    }

    fn fail(&mut self, digest: &Digest, why: FailReason, out: &mut Vec<Output>) {
        if self.pool.key(digest).is_some() {
            self.drop_blob(digest, out);
            out.push(Output::Failed { digest: *digest, why });
        }
    }

    /// Fails blobs that the origin does not give when no peer can help either.
    fn fail_closed(&mut self, out: &mut Vec<Output>) {
        let helpless = |(key, blob): (u32, &pool::Blob)| {
            (blob.closed && self.pool.orphans_of(key).next().is_some()).then_some(blob.digest)
        };
        let failed: Vec<Digest> = self.pool.in_order().filter_map(helpless).collect();
        failed.iter().for_each(|digest| self.fail(digest, FailReason::Closed, out));
    }

    fn on_tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.ticked_at = now;
        self.tell(now, out);
        self.check_stalls(now, out);
        self.check_reads(now, out);
        if let Some(peer) = self.peers.idle(now, &self.limits) {
            self.on_peer_down(now, &peer);
            out.push(Output::Drop { peer, why: DropReason::Idle });
        }
        let idle = self.pool.is_empty();
        let sought = if idle { self.limits.peers_idle } else { self.limits.peers_sought };
        let dials = self.peers.dials(now, sought, self.limits.peers_named).into_iter();
        out.extend(dials.map(Output::Dial));
        if idle {
            return;
        }
        self.fail_closed(out);
        self.give_up(now, out);
    }

    /// Fails what has not moved for too long: a blob that a client waits for, or the whole pool.
    fn give_up(&mut self, now: Duration, out: &mut Vec<Output>) {
        let bound = self.limits.give_up;
        let waiting = self.waiting().into_iter().filter(|(_, since)| now >= *since + bound);
        let mut failed: Vec<Digest> =
            waiting.filter_map(|(rank, _)| Some(self.pool.blob(rank.blob)?.digest)).collect();
        if now >= self.moved_at + bound {
            failed.extend(self.pool.digests());
        }
        failed.iter().for_each(|digest| self.fail(digest, FailReason::NoProgress, out));
    }

    fn peer_mut(&mut self, peer: &PeerId) -> Option<&mut peers::Peer> {
        self.peers.slot(peer).and_then(|slot| self.peers.get_mut(slot))
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
