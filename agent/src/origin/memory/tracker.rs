//! A little tracker with the real one's rules: each piece of the store is given once while a live
//! node holds it or fetches it under a permit, the least served piece first.
//!
//! Pure like the engine: time comes with each call. Nodes are known by the text of their peer id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_proto::piece::{PieceIndex, PieceSet};
use longshore_proto::rpc::origin as rpc;

/// A node that was not heard of for this long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// Distinct reports that reopen a piece, where the pool has so many nodes.
const REPORTS: usize = 2;
/// Refused pieces that an answer explains.
const REFUSALS_MAX: usize = 16;
/// Peers in an answer to an announce.
const PEERS_MAX: usize = 40;
/// So many pieces are on their way from the store at once at least; more when they come back fast.
const IN_FLIGHT_MIN: usize = 8;
/// Otherwise as many as come back in this time: more would only make each of them slow.
const IN_FLIGHT: Duration = Duration::from_millis(1500);
/// What a node that finds the store busy is asked to wait.
const STORE_BUSY: Duration = Duration::from_millis(200);
/// Pieces in one permit, where a node asks for so many.
const RUN_MAX: u32 = 4;

/// Who holds what, and who may read what.
#[derive(Debug)]
pub struct MemoryTracker {
    /// How long a permit keeps its piece for one node.
    pub permit_deadline: Duration,
    /// What an answer without permits asks for; zero: whenever something changes.
    pub retry_after: Duration,
    members: BTreeMap<String, Member>,
    blobs: BTreeMap<String, Vec<Tracked>>,
    next_permit: u64,
    /// Pieces under permit, until when.
    in_flight: BTreeMap<(String, u32), Duration>,
    /// Pieces per second that came back, and the count since the last sample.
    rate: f64,
    came_back: u32,
    sampled_at: Duration,
}

#[derive(Debug, Default)]
struct Member {
    addresses: Vec<String>,
    zone: String,
    heard_at: Duration,
}

#[derive(Clone, Debug, Default)]
struct Tracked {
    served: u32,
    holders: BTreeSet<String>,
    permit: Option<(String, Duration)>,
    /// Of whom, by whom.
    reports: BTreeSet<(String, String)>,
}

impl Default for MemoryTracker {
    fn default() -> Self {
        Self {
            permit_deadline: Duration::from_secs(30),
            retry_after: Duration::ZERO,
            members: BTreeMap::new(),
            blobs: BTreeMap::new(),
            next_permit: 1,
            in_flight: BTreeMap::new(),
            rate: 0.0,
            came_back: 0,
            sampled_at: Duration::ZERO,
        }
    }
}

impl MemoryTracker {
    /// A node lives at these addresses.
    pub fn join(&mut self, now: Duration, peer: &str, addresses: Vec<String>, zone: &str) {
        let member = Member { addresses, zone: zone.to_owned(), heard_at: now };
        self.members.insert(peer.to_owned(), member);
    }

    /// Takes a node's news in; answers with other nodes.
    pub fn announce(
        &mut self,
        now: Duration,
        peer: &str,
        request: &rpc::AnnounceRequest,
    ) -> rpc::AnnounceResponse {
        if request.leaving {
            self.forget(peer);
            return rpc::AnnounceResponse::default();
        }
        self.heard(now, peer);
        if !request.addresses.is_empty() {
            let addresses = request.addresses.clone();
            self.members.entry(peer.to_owned()).or_default().addresses = addresses;
        }
        for holding in &request.holdings {
            let pieces = holding.size.div_ceil(holding.piece_length.max(1)) as u32;
            let held = if holding.whole {
                Some(PieceSet::full(pieces))
            } else {
                PieceSet::from_bitmap(pieces, &holding.bitmap)
            };
            if let Some(held) = held {
                self.holds(peer, &holding.digest, &held);
            }
        }
        self.report(peer, &request.unreachable);
        let peers = self.peers(now, peer);
        rpc::AnnounceResponse { peers, ..Default::default() }
    }

    /// Gives leave.
    pub fn permit(
        &mut self,
        now: Duration,
        peer: &str,
        request: &rpc::PermitRequest,
    ) -> rpc::PermitResponse {
        self.heard(now, peer);
        self.report(peer, &request.unreachable);
        let mut answer = rpc::PermitResponse {
            retry_after_ms: self.retry_after.as_millis() as u32,
            ..Default::default()
        };
        let mut room = request.pieces_max;
        let mine: BTreeSet<(&str, u32)> =
            request.held.iter().map(|held| (held.digest.as_str(), held.piece)).collect();
        for want in &request.wants {
            let pieces = want.size.div_ceil(want.piece_length.max(1)) as u32;
            if let Some(held) = PieceSet::from_bitmap(pieces, &want.have_bitmap) {
                self.holds(peer, &want.digest, &held);
                let mine = |piece: &u32| mine.contains(&(want.digest.as_str(), *piece));
                let missing = held.missing().map(|piece| piece.0).filter(|piece| !mine(piece));
                let missing = missing.collect();
                self.permit_blob(now, peer, want, missing, &mut room, &mut answer);
            }
        }
        answer
    }

    fn permit_blob(
        &mut self,
        now: Duration,
        peer: &str,
        want: &rpc::PermitWant,
        mut missing: Vec<u32>,
        room: &mut u32,
        answer: &mut rpc::PermitResponse,
    ) {
        let most = self.in_flight_max(now);
        let tracked = self.blobs.get(&want.digest);
        let served = |piece: &u32| {
            tracked.and_then(|pieces| pieces.get(*piece as usize)).map_or(0, |piece| piece.served)
        };
        missing.sort_by_key(|piece| (!want.urgent.contains(piece), served(piece), *piece));
        for piece in missing {
            let others = self.holders(now, peer, &want.digest, piece);
            let urgent = want.urgent.contains(&piece);
            let full = || {
                // A piece that is reopened takes the place that it had.
                let again = self.in_flight.contains_key(&(want.digest.clone(), piece));
                self.in_flight.len() >= most && !again
            };
            if others.is_empty() && *room > 0 && !urgent && full() {
                answer.retry_after_ms = STORE_BUSY.as_millis() as u32;
            } else if others.is_empty() && *room > 0 {
                *room -= 1;
                self.give(now, peer, want, piece, answer);
            } else if !others.is_empty() && answer.refusals.len() < REFUSALS_MAX {
                let holders = others.iter().map(|peer| self.peer(peer)).collect();
                let digest = want.digest.clone();
                answer.refusals.push(rpc::Refusal { digest, piece, holders });
            }
        }
    }

    fn give(
        &mut self,
        now: Duration,
        peer: &str,
        want: &rpc::PermitWant,
        piece: u32,
        answer: &mut rpc::PermitResponse,
    ) {
        let expires_at = now + self.permit_deadline;
        let tracked = &mut self.tracked(&want.digest, piece)[piece as usize];
        tracked.served += 1;
        self.in_flight.insert((want.digest.clone(), piece), expires_at);
        let tracked = &mut self.tracked(&want.digest, piece)[piece as usize];
        tracked.permit = Some((peer.to_owned(), expires_at));
        tracked.reports.clear();
        let length = want.size.saturating_sub(u64::from(piece) * want.piece_length);
        let length = length.min(want.piece_length);
        let grows = |last: &&mut rpc::PiecePermit| {
            last.digest == want.digest
                && last.first_piece + last.pieces == piece
                && last.pieces < RUN_MAX
        };
        if let Some(last) = answer.permits.last_mut().filter(grows) {
            last.pieces += 1;
            last.length += length;
            return;
        }
        let permit_id = self.next_permit;
        self.next_permit += 1;
        answer.permits.push(rpc::PiecePermit {
            digest: want.digest.clone(),
            first_piece: piece,
            pieces: 1,
            offset: u64::from(piece) * want.piece_length,
            length,
            deadline_ms: self.permit_deadline.as_millis() as u32,
            permit_id,
            ..Default::default()
        });
    }

    /// How many pieces may be under permit now.
    fn in_flight_max(&mut self, now: Duration) -> usize {
        self.in_flight.retain(|_, until| now < *until);
        let elapsed = now.saturating_sub(self.sampled_at).as_secs_f64();
        if elapsed >= 0.25 {
            let rate = f64::from(self.came_back) / elapsed;
            self.rate = if rate > self.rate { rate } else { 0.75 * self.rate + 0.25 * rate };
            (self.came_back, self.sampled_at) = (0, now);
        }
        ((self.rate * IN_FLIGHT.as_secs_f64()) as usize).max(IN_FLIGHT_MIN)
    }

    /// Live nodes other than `peer` that hold the piece or fetch it.
    fn holders(&self, now: Duration, peer: &str, digest: &str, piece: u32) -> Vec<String> {
        let pieces = self.blobs.get(digest);
        let Some(tracked) = pieces.and_then(|pieces| pieces.get(piece as usize)) else {
            return Vec::new();
        };
        let fetching = tracked.permit.iter().filter(|(_, until)| now < *until).map(|(who, _)| who);
        let enough = REPORTS.min(self.members.len().saturating_sub(1)).max(1);
        let reported =
            |who: &String| tracked.reports.iter().filter(|(of, _)| of == who).count() >= enough;
        let alive = |who: &&String| {
            self.members.get(*who).is_some_and(|member| now < member.heard_at + SILENCE)
        };
        let all = tracked.holders.iter().chain(fetching).filter(alive);
        let all: BTreeSet<&String> = all.filter(|who| *who != peer && !reported(who)).collect();
        all.into_iter().cloned().collect()
    }

    fn holds(&mut self, peer: &str, digest: &str, held: &PieceSet) {
        for piece in held.iter() {
            let tracked = &mut self.tracked(digest, piece.0)[piece.0 as usize];
            if tracked.permit.as_ref().is_some_and(|(who, _)| who == peer) {
                tracked.permit = None;
                let back = self.in_flight.remove(&(digest.to_owned(), piece.0));
                self.came_back += u32::from(back.is_some());
            }
            let tracked = &mut self.tracked(digest, piece.0)[piece.0 as usize];
            if !tracked.holders.contains(peer) {
                tracked.holders.insert(peer.to_owned());
            }
        }
    }

    fn report(&mut self, by: &str, reports: &[rpc::Unreachable]) {
        for report in reports {
            if let Some(pieces) = self.blobs.get_mut(&report.digest)
                && let Some(tracked) = pieces.get_mut(report.piece as usize)
            {
                tracked.reports.insert((report.peer_id.clone(), by.to_owned()));
            }
        }
    }

    fn tracked(&mut self, digest: &str, piece: u32) -> &mut Vec<Tracked> {
        let pieces = self.blobs.entry(digest.to_owned()).or_default();
        if pieces.len() <= piece as usize {
            pieces.resize(piece as usize + 1, Tracked::default());
        }
        pieces
    }

    fn heard(&mut self, now: Duration, peer: &str) {
        self.members.entry(peer.to_owned()).or_default().heard_at = now;
    }

    /// A node has gone: what it alone held may be read again.
    pub fn forget(&mut self, peer: &str) {
        self.members.remove(peer);
    }

    /// How often a piece was given.
    pub fn served(&self, digest: &str, piece: PieceIndex) -> u32 {
        let pieces = self.blobs.get(digest);
        pieces.and_then(|pieces| pieces.get(piece.0 as usize)).map_or(0, |piece| piece.served)
    }

    /// Other live nodes.
    pub fn peers(&self, now: Duration, except: &str) -> Vec<rpc::Peer> {
        let alive = self.members.iter().filter(|(_, member)| now < member.heard_at + SILENCE);
        let others = alive.filter(|(peer, _)| *peer != except).take(PEERS_MAX);
        others.map(|(peer, _)| self.peer(peer)).collect()
    }

    fn peer(&self, peer: &str) -> rpc::Peer {
        let member = self.members.get(peer);
        rpc::Peer {
            peer_id: peer.to_owned(),
            addresses: member.map(|member| member.addresses.clone()).unwrap_or_default(),
            zone: member.map(|member| member.zone.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(held: &[u32], pieces_max: u32) -> rpc::PermitRequest {
        let mut set = PieceSet::empty(8);
        held.iter().for_each(|piece| assert!(set.insert(PieceIndex(*piece))));
        let want = rpc::PermitWant {
            digest: "d".into(),
            size: 8,
            piece_length: 1,
            have_bitmap: set.to_bitmap().into(),
            ..Default::default()
        };
        rpc::PermitRequest { wants: vec![want], pieces_max, ..Default::default() }
    }

    fn given(answer: &rpc::PermitResponse) -> Vec<u32> {
        answer.permits.iter().flat_map(|p| p.first_piece..p.first_piece + p.pieces).collect()
    }

    #[test]
    fn gives_each_piece_once_while_its_holder_lives() {
        let mut tracker = MemoryTracker::default();
        let now = Duration::from_secs(1);
        assert_eq!(given(&tracker.permit(now, "a", &ask(&[], 5))), [0, 1, 2, 3, 4]);
        assert_eq!(given(&tracker.permit(now, "b", &ask(&[], 5))), [5, 6, 7]);
        let refused = tracker.permit(now, "c", &ask(&[], 8));
        assert!(refused.permits.is_empty());
        assert_eq!(refused.refusals[0].holders[0].peer_id, "a");
        tracker.forget("b");
        assert_eq!(given(&tracker.permit(now, "c", &ask(&[], 8))), [5, 6, 7]);
    }

    #[test]
    fn two_reports_reopen_a_piece() {
        let mut tracker = MemoryTracker::default();
        let now = Duration::from_secs(1);
        ["b", "c", "d"].iter().for_each(|peer| tracker.join(now, peer, vec![], ""));
        assert_eq!(given(&tracker.permit(now, "a", &ask(&[], 8))).len(), 8);
        let report = rpc::Unreachable { peer_id: "a".into(), digest: "d".into(), piece: 3 };
        let reporting = |pieces_max| {
            let unreachable = vec![report.clone()];
            rpc::PermitRequest { unreachable, ..ask(&[], pieces_max) }
        };
        assert_eq!(given(&tracker.permit(now, "b", &reporting(8))), [0; 0]);
        assert_eq!(given(&tracker.permit(now, "c", &reporting(8))), [3]);
    }
}
