//! The decision: which pieces a node may read from the store, and which it must ask of others.
//!
//! Each piece leaves the store once while a live member holds it or is fetching it. Different nodes
//! get different pieces, in the order in which they want them, urgent ones first; a few at a time,
//! so that the last pieces do not leave the store all at once. Copies beyond the first come out of a
//! small budget, a larger one for pools of few pieces, which the swarm spreads slowly.
//!
//! Source of the rules: an event simulation; serve-once cost 3-8 % over the bound with 1,000
//! pieces, and 2.5 times the bound with 16.

use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::cell::{Cell, MemberId, PULL_GAP_MS, Permit, Word};
use super::{Grant, HOLDERS_MAX, PermitAnswer, PermitAsk, REFUSALS_MAX, Refused, Want};

/// Pieces that a cell should have in flight from the store when few nodes pull.
const IN_FLIGHT_WANTED: usize = 16;
/// A node keeps its link to the store busy with two …
const IN_FLIGHT_PER_NODE_MIN: usize = 2;
/// … and alone fills a long fat one with eight.
const IN_FLIGHT_PER_NODE_MAX: usize = 8;

/// A piece's deadline: 5 s and its length at 2 Mbit/s (9 s for 1 MiB).
const DEADLINE_BASE_MS: u64 = 5_000;
const DEADLINE_BYTES_PER_MS: u64 = 250;

/// Pools with fewer pieces than this get more copies.
const SMALL_POOL_PIECES: u32 = 64;
/// A small pool's piece that others have is given again after this long.
const SMALL_POOL_WAIT_MS: u64 = 250;
/// Most extra copies of a small pool's pieces.
const SMALL_POOL_COPIES_MAX: u32 = 3;
/// In other pools one extra copy for this many pieces of a blob.
const PIECES_PER_EXTRA: u32 = 32;
/// An urgent piece that others have is given again after this long.
const URGENT_WAIT_MS: u64 = 1_000;

/// A permit younger than this may be on its way to a node that does not list it yet.
const ABANDONED_AFTER_MS: u64 = 2_000;

const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 2_000;
/// While a young tracker waits to hear what nodes hold.
const RETRY_YOUNG_MS: u64 = 500;

impl Cell {
    /// A node has room for pieces.
    pub fn permit(
        &mut self,
        now_ms: u64,
        peer_id: &str,
        zone: &str,
        ask: &PermitAsk,
    ) -> PermitAnswer {
        self.sweep(now_ms);
        let Some(id) = self.touch(now_ms, peer_id, zone) else {
            return PermitAnswer { retry_after_ms: RETRY_MS_MAX, ..PermitAnswer::default() };
        };
        self.hear(now_ms, id, ask);
        let room = self.room(id, &ask.wants);
        let mut answer = PermitAnswer::default();
        let mut missing = false;
        for (want, piece, urgent) in in_order(&ask.wants) {
            let digest = &want.holding.digest;
            let Some(swarm) = self.swarms.get(digest) else { continue };
            let fits = swarm.size() == want.holding.size && piece.0 < swarm.pieces();
            if !fits || swarm.holds(id, piece) || swarm.has_permit(id, piece) {
                continue;
            }
            missing = true;
            // The piece at a waiting client's cursor may go over the usual count by one.
            let has_room = answer.grants.len() < ask.pieces_max.min(room + usize::from(urgent));
            let extra = swarm.is_covered(piece);
            let open = if extra {
                has_room && self.may_copy(now_ms, id, digest, piece, urgent)
            } else {
                !self.must_wait(now_ms, id, urgent)
            };
            match (open, has_room) {
                (true, true) => {
                    answer.grants.push(self.give(now_ms, id, digest, piece, extra));
                }
                (false, _) if extra && answer.refused.len() < REFUSALS_MAX => {
                    self.tally.refused += 1;
                    answer.refused.push(self.refuse(id, digest, piece));
                }
                _ => {}
            }
            let done = answer.grants.len() >= ask.pieces_max.min(room);
            if done && answer.refused.len() >= REFUSALS_MAX {
                break;
            }
        }
        if missing {
            answer.retry_after_ms = self.retry(now_ms, id);
        }
        answer
    }

    /// Takes in what the request says of the node and of others.
    fn hear(&mut self, now_ms: u64, id: MemberId, ask: &PermitAsk) {
        self.active.insert(id, now_ms);
        let member = self.members.get_mut(&id).expect("the caller touched it");
        if member.asked_ms.replace(now_ms).is_none_or(|asked_ms| asked_ms + PULL_GAP_MS <= now_ms)
            && member.permits.is_empty()
        {
            member.pool.clear();
        }
        for want in &ask.wants {
            let holding = &want.holding;
            self.hold(id, holding, Word::Store);
            let whole = holding.have.is_full();
            let Some(swarm) = self.swarm(id, &holding.digest, holding.size, Word::Store) else {
                continue;
            };
            swarm.set_interested(id, !whole);
            let pieces = swarm.pieces();
            let member = self.members.get_mut(&id).expect("the caller touched it");
            member.pool.insert(holding.digest, pieces);
        }
        self.keep_held(now_ms, id, &ask.held);
        self.drop_abandoned(now_ms, id, ask);
        self.apply_reports(now_ms, id, &ask.reports);
    }

    /// A permit that the node does not list, for a blob of which it lists the pieces, is lost.
    fn drop_abandoned(&mut self, now_ms: u64, id: MemberId, ask: &PermitAsk) {
        let member = &self.members[&id];
        let lost = |permit_id: &&u64| {
            let permit = &self.permits[*permit_id];
            permit.given_ms + ABANDONED_AFTER_MS <= now_ms
                && ask.wants.iter().any(|want| want.holding.digest == permit.digest)
                && !ask.held.iter().any(|held| held.permit_id == **permit_id)
        };
        for permit_id in member.permits.iter().filter(lost).copied().collect::<Vec<_>>() {
            self.close(permit_id);
        }
    }

    /// Pieces that the node may take now.
    fn room(&self, id: MemberId, wants: &[Want]) -> usize {
        let pulling = wants
            .iter()
            .filter_map(|want| self.swarms.get(&want.holding.digest))
            .map(|swarm| swarm.interested().len())
            .max()
            .unwrap_or_default()
            .max(self.active.len())
            .max(1);
        let share =
            (IN_FLIGHT_WANTED / pulling).clamp(IN_FLIGHT_PER_NODE_MIN, IN_FLIGHT_PER_NODE_MAX);
        share.saturating_sub(self.members[&id].permits.len())
    }

    /// A tracker that has just started hears of holdings before it opens pieces, unless the node
    /// began here; a waiting client waits for nothing.
    fn must_wait(&self, now_ms: u64, id: MemberId, urgent: bool) -> bool {
        !urgent && !self.members[&id].known && now_ms < self.started_ms + self.period_ms
    }

    /// Whether a piece that the cell has, or is fetching, may leave the store once more.
    fn may_copy(
        &mut self,
        now_ms: u64,
        id: MemberId,
        digest: &Digest,
        piece: PieceIndex,
        urgent: bool,
    ) -> bool {
        let member = &self.members[&id];
        let pool: u32 = member.pool.values().sum();
        let busy = !member.permits.is_empty();
        let Some(swarm) = self.swarms.get_mut(digest) else { return false };
        let small = pool < SMALL_POOL_PIECES;
        if !urgent && (!small || busy) {
            return false;
        }
        let pieces = swarm.pieces();
        let (budget, wait_ms) = if small {
            // As many as bring the pool to the size at which serve-once is good enough.
            let budget = (pieces * (SMALL_POOL_PIECES - pool)).div_ceil(pool.max(1));
            (budget.min(pieces * SMALL_POOL_COPIES_MAX), SMALL_POOL_WAIT_MS)
        } else {
            (pieces.div_ceil(PIECES_PER_EXTRA), URGENT_WAIT_MS)
        };
        swarm.extra_used < budget && swarm.waited(piece, id, now_ms) >= wait_ms
    }

    fn give(
        &mut self,
        now_ms: u64,
        id: MemberId,
        digest: &Digest,
        piece: PieceIndex,
        extra: bool,
    ) -> Grant {
        let permit_id = self.next_permit;
        self.next_permit += 1;
        self.tally.given += 1;
        if extra {
            self.tally.extra += 1;
            self.swarms.get_mut(digest).expect("the caller found it").extra_used += 1;
        }
        self.grant(now_ms, id, digest, piece, permit_id)
    }

    /// Writes a permit down.
    pub(super) fn grant(
        &mut self,
        now_ms: u64,
        id: MemberId,
        digest: &Digest,
        piece: PieceIndex,
        permit_id: u64,
    ) -> Grant {
        let swarm = self.swarms.get_mut(digest).expect("the caller found it");
        swarm.open(piece, permit_id, id);
        let patience_ms = DEADLINE_BASE_MS + swarm.piece_length(piece) / DEADLINE_BYTES_PER_MS;
        let permit = Permit {
            member: id,
            digest: *digest,
            piece,
            given_ms: now_ms,
            deadline_ms: now_ms + patience_ms,
            patience_ms,
        };
        self.permits.insert(permit_id, permit);
        self.members.get_mut(&id).expect("the caller touched it").permits.insert(permit_id);
        Grant { digest: *digest, piece, permit_id, deadline_ms: patience_ms }
    }

    fn refuse(&self, id: MemberId, digest: &Digest, piece: PieceIndex) -> Refused {
        let sources = self.swarms.get(digest).map(|swarm| swarm.sources(piece, id));
        let holders = self.choose(id, sources.unwrap_or_default(), HOLDERS_MAX);
        Refused { digest: *digest, piece, holders }
    }

    /// More nodes ask less often.
    fn retry(&self, now_ms: u64, id: MemberId) -> u64 {
        if self.must_wait(now_ms, id, false) {
            return RETRY_YOUNG_MS;
        }
        (self.active.len() as u64).clamp(RETRY_MS_MIN, RETRY_MS_MAX)
    }
}

/// Urgent pieces of all wants first, then the missing ones in order.
fn in_order(wants: &[Want]) -> impl Iterator<Item = (&Want, PieceIndex, bool)> {
    let urgent =
        wants.iter().flat_map(|want| want.urgent.iter().map(move |piece| (want, *piece, true)));
    let missing = wants.iter().flat_map(|want| {
        let later = move |piece: &PieceIndex| !want.urgent.contains(piece);
        want.holding.have.missing().filter(later).map(move |piece| (want, piece, false))
    });
    urgent.chain(missing)
}
