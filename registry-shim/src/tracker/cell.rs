//! A cell: its members, what they hold, the permits that are out. One store copy is paid per cell.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::swarm::{Swarm, pieces_of};
use super::{
    Announce, Announced, BLOBS_PER_MEMBER_MAX, HELD_MAX, Held, Holding, LIVE_PERIODS, MEMBERS_MAX,
    PIECES_PER_MEMBER_MAX, Peer, REPORTS_MAX, Report, Tally,
};

/// Between two looks for what is over.
const SWEEP_MS: u64 = 100;
/// A member that asked for a permit this recently is pulling now.
const ACTIVE_MS: u64 = 2_000;
/// After this long without an ask the next one begins a new pull.
pub(super) const PULL_GAP_MS: u64 = 30_000;

/// Whose word a size is: the store's outranks a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Node,
    Store,
}

/// Names a member within its cell; never used again.
pub(super) type MemberId = u64;

/// What one cell knows.
#[derive(Debug)]
pub struct Cell {
    pub(super) period_ms: u64,
    pub(super) started_ms: u64,
    pub(super) swept_ms: u64,
    ids: BTreeMap<String, MemberId>,
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) swarms: BTreeMap<Digest, Swarm>,
    pub(super) permits: BTreeMap<u64, Permit>,
    /// Who is pulling, and when it last asked.
    pub(super) active: BTreeMap<MemberId, u64>,
    next_member: MemberId,
    pub(super) next_permit: u64,
    pub(super) tally: Tally,
}

/// One node.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) peer: Peer,
    pub(super) seen_ms: u64,
    /// It joined here, or has announced completely: nothing of it is missing here.
    pub(super) known: bool,
    sequence: Option<u64>,
    pub(super) blobs: BTreeSet<Digest>,
    pub(super) permits: BTreeSet<u64>,
    /// When it last asked for a permit.
    pub(super) asked_ms: Option<u64>,
    /// Pieces of all blobs that it holds or wants.
    pieces: u64,
    /// Pieces of each blob that this pull wanted: the pool.
    pub(super) pool: BTreeMap<Digest, u32>,
}

/// A piece that a member may read from the store.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) member: MemberId,
    pub(super) digest: Digest,
    pub(super) piece: PieceIndex,
    pub(super) given_ms: u64,
    pub(super) deadline_ms: u64,
    /// What the deadline was at first, from the grant.
    pub(super) patience_ms: u64,
}

impl Cell {
    /// An empty cell. `first_permit` differs between instances, so that nobody takes another's
    /// permit for its own.
    pub fn new(period_ms: u64, started_ms: u64, first_permit: u64) -> Self {
        Self {
            period_ms,
            started_ms,
            swept_ms: started_ms,
            ids: BTreeMap::new(),
            members: BTreeMap::new(),
            swarms: BTreeMap::new(),
            permits: BTreeMap::new(),
            active: BTreeMap::new(),
            next_member: 1,
            next_permit: first_permit,
            tally: Tally::default(),
        }
    }

    /// A node joined here.
    pub fn join(&mut self, now_ms: u64, peer: Peer) {
        self.sweep(now_ms);
        let Some(id) = self.touch(now_ms, &peer.peer_id, &peer.zone) else { return };
        let member = self.members.get_mut(&id).expect("touched just now");
        member.known = true;
        member.peer = peer;
    }

    /// A node says how it stands.
    pub fn announce(
        &mut self,
        now_ms: u64,
        peer_id: &str,
        zone: &str,
        announce: Announce,
    ) -> Announced {
        self.sweep(now_ms);
        let Some(id) = self.touch(now_ms, peer_id, zone) else { return Announced::default() };
        if announce.leaving {
            self.remove(id);
            return Announced::default();
        }
        let member = self.members.get_mut(&id).expect("touched just now");
        if !announce.addresses.is_empty() {
            member.peer.addresses = announce.addresses;
        }
        let follows = member.sequence.is_some_and(|last| announce.sequence == last + 1);
        let resync = !announce.complete && !follows;
        member.sequence = Some(announce.sequence);
        member.known |= announce.complete;
        if announce.complete {
            self.drop_all_holdings(id);
        }
        for digest in &announce.dropped {
            if let Some(swarm) = self.swarms.get_mut(digest) {
                swarm.drop_holding(id);
            }
        }
        for holding in &announce.holdings {
            self.hold(id, holding, Word::Node);
        }
        self.keep_held(now_ms, id, &announce.held);
        self.apply_reports(now_ms, id, &announce.reports);
        self.set_wanted(id, &announce.wanted);
        Announced { peers: self.peers_for(id, &announce.wanted), members: self.sample(id), resync }
    }

    /// A node begins to pull these blobs; who else has or fetches them.
    pub fn plan(
        &mut self,
        now_ms: u64,
        peer_id: &str,
        zone: &str,
        blobs: &[(Digest, u64)],
    ) -> Vec<Peer> {
        self.sweep(now_ms);
        let Some(id) = self.touch(now_ms, peer_id, zone) else { return Vec::new() };
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let peers = self.peers_for(id, &digests);
        for (digest, size) in blobs {
            let whole =
                |swarm: &Swarm| (0..swarm.pieces()).all(|piece| swarm.holds(id, PieceIndex(piece)));
            if let Some(swarm) = self.swarm(id, digest, *size, Word::Store)
                && !whole(swarm)
            {
                swarm.set_interested(id, true);
            }
        }
        peers
    }

    /// Members that are alive.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Counts since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Ends what is over: members not heard of, permits past their deadline.
    pub fn sweep(&mut self, now_ms: u64) {
        if now_ms < self.swept_ms + SWEEP_MS {
            return;
        }
        self.swept_ms = now_ms;
        let silent = LIVE_PERIODS * self.period_ms;
        let gone = self.members.iter().filter(|(_, m)| m.seen_ms + silent <= now_ms);
        for id in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(id);
        }
        let late = self.permits.iter().filter(|(_, permit)| permit.deadline_ms <= now_ms);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id);
            self.tally.expired += 1;
        }
        self.active.retain(|_, asked_ms| now_ms < *asked_ms + ACTIVE_MS);
        self.swarms.retain(|_, swarm| {
            swarm.end_doubts(now_ms);
            !swarm.is_idle()
        });
    }

    /// The member, made known if it was not; `None` when the cell is full.
    pub(super) fn touch(&mut self, now_ms: u64, peer_id: &str, zone: &str) -> Option<MemberId> {
        if let Some(id) = self.ids.get(peer_id) {
            self.members.get_mut(id).expect("ids name members").seen_ms = now_ms;
            return Some(*id);
        }
        if self.members.len() >= MEMBERS_MAX {
            return None;
        }
        let id = self.next_member;
        self.next_member += 1;
        let peer =
            Peer { peer_id: peer_id.to_owned(), addresses: Vec::new(), zone: zone.to_owned() };
        let member = Member {
            peer,
            seen_ms: now_ms,
            known: false,
            sequence: None,
            blobs: BTreeSet::new(),
            permits: BTreeSet::new(),
            asked_ms: None,
            pieces: 0,
            pool: BTreeMap::new(),
        };
        self.ids.insert(peer_id.to_owned(), id);
        self.members.insert(id, member);
        Some(id)
    }

    /// The swarm of a blob that the member holds or wants; `None` past the bounds, or when another
    /// size is known for the digest.
    pub(super) fn swarm(
        &mut self,
        id: MemberId,
        digest: &Digest,
        size: u64,
        word: Word,
    ) -> Option<&mut Swarm> {
        let wrong = self.swarms.get(digest).is_some_and(|swarm| swarm.size() != size);
        if wrong {
            if word == Word::Node {
                return None;
            }
            self.forget_blob(digest);
        }
        let member = self.members.get_mut(&id)?;
        if !member.blobs.contains(digest) {
            let pieces = member.pieces + u64::from(pieces_of(size));
            if member.blobs.len() >= BLOBS_PER_MEMBER_MAX || pieces > PIECES_PER_MEMBER_MAX {
                return None;
            }
            member.pieces = pieces;
            member.blobs.insert(*digest);
        }
        Some(self.swarms.entry(*digest).or_insert_with(|| Swarm::new(size)))
    }

    /// Someone was wrong about the blob: begin anew.
    fn forget_blob(&mut self, digest: &Digest) {
        let permits = self.permits.iter().filter(|(_, permit)| permit.digest == *digest);
        for permit in permits.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(permit);
        }
        self.swarms.remove(digest);
    }

    /// The member holds these pieces, too.
    pub(super) fn hold(&mut self, id: MemberId, holding: &Holding, word: Word) {
        let Some(swarm) = self.swarm(id, &holding.digest, holding.size, word) else { return };
        if holding.have.pieces() != swarm.pieces() {
            return;
        }
        for permit in swarm.add(id, &holding.have) {
            self.close(permit);
        }
    }

    /// Holds nothing any more; what it wants or fetches stays.
    fn drop_all_holdings(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id).expect("the caller touched it");
        let swarms = &mut self.swarms;
        member.blobs.retain(|digest| {
            let Some(swarm) = swarms.get_mut(digest) else { return false };
            swarm.drop_holding(id);
            swarm.interested().contains(&id) || member.pool.contains_key(digest)
        });
        let sizes = member.blobs.iter().filter_map(|digest| swarms.get(digest));
        member.pieces = sizes.map(|swarm| u64::from(swarm.pieces())).sum();
    }

    fn set_wanted(&mut self, id: MemberId, wanted: &[Digest]) {
        let member = self.members.get(&id).expect("the caller touched it");
        for digest in &member.blobs {
            if let Some(swarm) = self.swarms.get_mut(digest) {
                swarm.set_interested(id, wanted.contains(digest));
            }
        }
    }

    /// Permits that a node still works on get more time; those that another instance gave are
    /// taken over while this one is young.
    pub(super) fn keep_held(&mut self, now_ms: u64, id: MemberId, held: &[Held]) {
        for held in held.iter().take(HELD_MAX) {
            if let Some(permit) = self.permits.get_mut(&held.permit_id) {
                if permit.member == id {
                    permit.extend(now_ms);
                }
            } else if self.is_young(now_ms) {
                self.restore(now_ms, id, held);
            }
        }
    }

    /// Whether nodes may still hold permits of an instance before.
    pub(super) const fn is_young(&self, now_ms: u64) -> bool {
        now_ms < self.started_ms + LIVE_PERIODS * self.period_ms
    }

    fn restore(&mut self, now_ms: u64, id: MemberId, held: &Held) {
        let Some(swarm) = self.swarms.get_mut(&held.digest) else { return };
        if held.piece.0 >= swarm.pieces() || swarm.holds(id, held.piece) {
            return;
        }
        self.grant(now_ms, id, &held.digest, held.piece, held.permit_id);
    }

    /// Two distinct reports reopen a piece; where no second member could report, one does.
    pub(super) fn apply_reports(&mut self, now_ms: u64, id: MemberId, reports: &[Report]) {
        const REPORTS_NEEDED: usize = 2;
        let others = self.members.len().saturating_sub(1);
        let needed = REPORTS_NEEDED.min(others).max(1);
        for report in reports.iter().take(REPORTS_MAX) {
            let Some(&holder) = self.ids.get(&report.peer_id) else { continue };
            let Some(swarm) = self.swarms.get_mut(&report.digest) else { continue };
            if holder == id || report.piece.0 >= swarm.pieces() {
                continue;
            }
            if let Some(permits) = swarm.doubt(holder, report.piece, id, needed, now_ms) {
                self.tally.reopened += 1;
                permits.into_iter().for_each(|permit| self.close(permit));
            }
        }
    }

    pub(super) fn close(&mut self, permit_id: u64) {
        let Some(permit) = self.permits.remove(&permit_id) else { return };
        if let Some(swarm) = self.swarms.get_mut(&permit.digest) {
            swarm.close(permit.piece, permit_id);
        }
        if let Some(member) = self.members.get_mut(&permit.member) {
            member.permits.remove(&permit_id);
        }
    }

    fn remove(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.ids.remove(&member.peer.peer_id);
        self.active.remove(&id);
        for permit in member.permits {
            self.close(permit);
        }
        for digest in &member.blobs {
            if let Some(swarm) = self.swarms.get_mut(digest) {
                swarm.forget(id);
            }
        }
    }
}

impl Permit {
    /// A node that still says it is fetching is slow and not dead.
    fn extend(&mut self, now_ms: u64) {
        /// A fetch that takes longer than this many times what it should is given up.
        const PATIENCE_TIMES_MAX: u64 = 16;
        let last = self.given_ms + PATIENCE_TIMES_MAX * self.patience_ms;
        self.deadline_ms = self.deadline_ms.max((now_ms + self.patience_ms).min(last));
    }
}
