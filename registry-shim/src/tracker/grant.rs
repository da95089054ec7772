//! Who may read what: the answer to one permit request.
//!
//! Least served first: pieces that nobody holds or reads, in the asker's order, so that different
//! nodes read different pieces and all of them stream in the order of want. A piece that is held
//! or being read is refused with those who have it, but for a budget of extra copies that keeps
//! waiting clients moving.

use std::collections::BTreeMap;

use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;

use super::blob::{BlobId, bits};
use super::cell::Cell;
use super::limits::{
    ASKING_GAP_MS, HOLDERS_NAMED_MAX, OUTSTANDING_MAX, PULL_GAP_MS, REFUSALS_MAX,
    REFUSALS_SCANNED_MAX, TELL_AGAIN_AFTER_MS, UNSEEN_IN_USE_MS, UNSEEN_SHARES_MAX,
};
use super::member::{MemberId, MemberState, mix};
use super::request::{Ask, Held, Want};
use super::{Member, PermitAnswer, PermitGrant, TrackerError};

/// Ask again after this long, when there is something to wait for; more by [`ASKERS_PER_MS`].
const RETRY_MS: u32 = 100;
/// The wait grows by a millisecond for so many askers, so that ten thousand of them make about
/// ten thousand requests a second.
const ASKERS_PER_MS: u32 = 10;
const RETRY_MS_MAX: u32 = 1_000;
/// Added to each wait, so that askers do not stay in step.
const RETRY_JITTER_MS: u64 = 50;

/// One want that still lacks something.
struct Turn<'a> {
    want: &'a Want,
    blob: BlobId,
}

/// The answer as it grows.
struct Giving<'a> {
    id: MemberId,
    turns: Vec<Turn<'a>>,
    /// Pieces that may still be given.
    room: usize,
    is_small_pool: bool,
    runs: Vec<Run>,
    /// Turn and piece.
    refused: Vec<(usize, u32)>,
}

/// Neighbouring pieces under one permit.
struct Run {
    turn: usize,
    first: u32,
    pieces: u32,
    permit_id: u64,
    deadline_ms: u32,
    /// Never made longer: a client waits for it.
    is_alone: bool,
}

impl Cell {
    pub(super) fn permit(
        &mut self,
        now_ms: u64,
        member: &Member,
        ask: Ask,
    ) -> Result<PermitAnswer, TrackerError> {
        let is_new = !self.by_peer.contains_key(&member.peer_id);
        let id = self.join(now_ms, member)?;
        if is_new && ask.wants.iter().any(|want| !want.have.is_empty()) {
            self.saw_earlier_life();
        }
        let turns = self.take_wants(id, &ask.wants);
        self.remember_permits(id, &ask.held);
        self.report(id, &ask.reports);
        let pool_pieces = self.count_ask(id, &turns, ask.pool_pieces());
        let is_small_pool = pool_pieces < u64::from(self.config.small_pool_pieces);
        let room = self.room(id, &turns, &ask);
        let mut giving =
            Giving { id, turns, room, is_small_pool, runs: Vec::new(), refused: Vec::new() };
        self.tell_again(&mut giving, &ask);
        self.give_urgent(&mut giving);
        self.give_in_order(&mut giving);
        self.give_a_starved_node(&mut giving);
        Ok(self.answer(giving))
    }

    /// Notes what the wants' bitmaps say; what is left to do comes back.
    fn take_wants<'a>(&mut self, id: MemberId, wants: &'a [Want]) -> Vec<Turn<'a>> {
        let mut turns = Vec::with_capacity(wants.len());
        for want in wants {
            let Some(blob) = self.blob(want.key) else {
                continue;
            };
            let is_whole = want.have.is_full();
            let held = if is_whole { Held::Whole } else { Held::Pieces(want.have.clone()) };
            self.hold(id, blob, held);
            if !is_whole {
                self.want_also(id, want.key.digest);
                turns.push(Turn { want, blob });
            }
        }
        turns
    }

    /// Notes that the member asks, and where its clients wait; its pool's pieces come back.
    fn count_ask(&mut self, id: MemberId, turns: &[Turn<'_>], pool_pieces: u64) -> u64 {
        let now_ms = self.now_ms;
        let Some(state) = self.members.get_mut(&id) else {
            return pool_pieces;
        };
        let asking = &mut state.asking;
        asking.period = Some(self.askers.count(now_ms, asking.period));
        let before_ms = asking.last_ms.replace(now_ms);
        if before_ms.is_none_or(|before_ms| before_ms + ASKING_GAP_MS < now_ms) {
            asking.progress_ms = now_ms;
        }
        if before_ms.is_none_or(|before_ms| before_ms + PULL_GAP_MS < now_ms) {
            asking.pool_pieces = 0;
        }
        asking.pool_pieces = asking.pool_pieces.max(pool_pieces);
        let before = std::mem::take(&mut asking.urgent);
        let waiting: BTreeMap<_, _> = turns
            .iter()
            .flat_map(|turn| turn.urgent().map(|piece| (turn.blob, piece)))
            .map(|place| (place, before.get(&place).copied().unwrap_or(now_ms)))
            .collect();
        asking.urgent = waiting;
        asking.pool_pieces
    }

    /// How many pieces the member may be given now.
    fn room(&self, id: MemberId, turns: &[Turn<'_>], ask: &Ask) -> usize {
        let (Some(state), Some(turn)) = (self.members.get(&id), turns.first()) else {
            return 0;
        };
        if self.is_recovering() {
            return 0;
        }
        let base = self.config.outstanding_per_node;
        // Few askers get more, or else each would wait for the store's latency most of the time.
        let shared = self.askers.settled().map_or(0, |askers| {
            let share = self.config.outstanding_cell_bytes / u64::from(askers.max(1));
            (share / turn.want.key.piece_bytes).min(u64::from(OUTSTANDING_MAX)) as u32
        });
        let allowed = base.max(shared);
        // Who let permits pass their deadline gets fewer, until a piece comes again.
        let allowed = (allowed >> state.strikes.min(31)).max(1) as usize;
        let room = allowed.saturating_sub(self.outstanding(id, state, turns, ask));
        let most = (allowed * UNSEEN_SHARES_MAX).saturating_sub(state.permits.len());
        room.min(most).min(ask.pieces_max as usize)
    }

    /// Permits of the member that it is still using. Of a blob that it does not ask for now no
    /// bitmap says which pieces have come since.
    fn outstanding(
        &self,
        id: MemberId,
        state: &MemberState,
        turns: &[Turn<'_>],
        ask: &Ask,
    ) -> usize {
        let is_in_use = |(blob_id, piece): &(BlobId, u32)| {
            let Some(blob) = self.blobs.get(blob_id) else {
                return false;
            };
            let permit = blob.permit_of(*piece, id);
            turns.iter().any(|turn| turn.blob == *blob_id)
                || permit.is_some_and(|p| p.given_ms + UNSEEN_IN_USE_MS > self.now_ms)
                || ask.held.iter().any(|(d, p, _)| (d, p) == (&blob.key.digest, piece))
        };
        state.permits.iter().filter(|place| is_in_use(place)).count()
    }

    /// Repeats permits whose answer the member never saw. They stay what they are: the same
    /// permits, with the same deadline.
    fn tell_again(&self, giving: &mut Giving<'_>, ask: &Ask) {
        let Some(state) = self.members.get(&giving.id) else {
            return;
        };
        for (at, turn) in giving.turns.iter().enumerate() {
            let Some(blob) = self.blobs.get(&turn.blob) else {
                continue;
            };
            for (_, piece) in state.permits.range((turn.blob, 0)..=(turn.blob, u32::MAX)) {
                let digest = turn.want.key.digest;
                let is_held = ask.held.iter().any(|(d, p, _)| (d, p) == (&digest, piece));
                let Some(permit) = blob.permit_of(*piece, giving.id) else {
                    continue;
                };
                let is_old = permit.given_ms + TELL_AGAIN_AFTER_MS <= self.now_ms;
                if is_old && !is_held && giving.runs.len() < ask.pieces_max as usize {
                    let left = permit.deadline_ms.saturating_sub(self.now_ms);
                    giving.runs.push(Run {
                        turn: at,
                        first: *piece,
                        pieces: 1,
                        permit_id: permit.id,
                        deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
                        is_alone: true,
                    });
                }
            }
        }
        giving.room = giving.room.min(ask.pieces_max as usize - giving.runs.len());
    }

    /// Pieces that clients wait for: each alone, whatever else is in flight.
    fn give_urgent(&mut self, giving: &mut Giving<'_>) {
        for at in 0..giving.turns.len() {
            let pieces: Vec<u32> = giving.turns[at].urgent().collect();
            for piece in pieces {
                let blob_id = giving.turns[at].blob;
                let Some(blob) = self.blobs.get(&blob_id) else {
                    break;
                };
                if blob.permit_of(piece, giving.id).is_some() {
                    continue;
                }
                let is_open = blob.is_open(piece);
                let may = giving.room > 0
                    && (is_open || self.may_copy(giving.id, blob_id, piece, giving.is_small_pool));
                if may {
                    self.give(giving, at, piece, true, !is_open);
                } else if !is_open {
                    giving.refused.push((at, piece));
                }
            }
        }
    }

    /// Whether a piece that others hold or read may be read once more for a waiting client.
    fn may_copy(&mut self, id: MemberId, blob_id: BlobId, piece: u32, is_small_pool: bool) -> bool {
        let Some((blob, state)) = self.blobs.get(&blob_id).zip(self.members.get(&id)) else {
            return false;
        };
        let since = state.asking.urgent.get(&(blob_id, piece)).copied().unwrap_or(self.now_ms);
        let waited = self.now_ms.saturating_sub(since);
        if is_small_pool {
            return waited >= u64::from(self.config.small_pool_wait_ms) && blob.served(piece) < 2;
        }
        waited >= u64::from(self.config.slow_piece_ms)
            && blob.permits_of(piece).len() < 2
            && self.extra.spend()
    }

    fn give_in_order(&mut self, giving: &mut Giving<'_>) {
        for at in 0..giving.turns.len() {
            let Turn { want, blob: blob_id } = giving.turns[at];
            let Some(blob) = self.blobs.get_mut(&blob_id) else {
                continue;
            };
            for piece in blob.open_for(&want.have, giving.room) {
                if !self.window.admits(want.key.piece_length(piece)) {
                    return;
                }
                self.give(giving, at, piece, false, false);
            }
        }
    }

    /// In a small pool a node that gets nothing from anybody makes a second copy.
    fn give_a_starved_node(&mut self, giving: &mut Giving<'_>) {
        let patience_ms = u64::from(self.config.small_pool_wait_ms);
        let is_starved = self.members.get(&giving.id).is_some_and(|state| {
            state.permits.is_empty() && state.asking.progress_ms + patience_ms <= self.now_ms
        });
        if !giving.is_small_pool || !is_starved || giving.room == 0 {
            return;
        }
        let once_served = |(at, piece): &(usize, u32)| {
            let blob = self.blobs.get(&giving.turns[*at].blob);
            blob.is_some_and(|blob| blob.served(*piece) == 1)
        };
        let found = giving.lacking().find(once_served);
        if let Some((at, piece)) = found {
            self.give(giving, at, piece, false, true);
            giving.refused.retain(|refused| *refused != (at, piece));
        }
    }

    fn give(&mut self, giving: &mut Giving<'_>, at: usize, piece: u32, alone: bool, extra: bool) {
        giving.room -= 1;
        self.tally.given += 1;
        self.tally.extra += u64::from(extra);
        if !extra {
            self.extra.earn();
        }
        let joins = giving.runs.last().filter(|run| {
            run.turn == at && run.first + run.pieces == piece && !run.is_alone && !alone
        });
        let permit_id = joins.map(|run| run.permit_id);
        let new_id = permit_id.unwrap_or_else(|| self.new_permit_id());
        self.issue(giving.id, giving.turns[at].blob, piece, new_id);
        match giving.runs.last_mut() {
            Some(run) if permit_id.is_some() => run.pieces += 1,
            _ => giving.runs.push(Run {
                turn: at,
                first: piece,
                pieces: 1,
                permit_id: new_id,
                deadline_ms: self.config.permit_deadline_ms,
                is_alone: alone,
            }),
        }
    }

    fn answer(&mut self, giving: Giving<'_>) -> PermitAnswer {
        let refusals = self.refusals(&giving);
        self.tally.refused += refusals.len() as u64;
        let grant = |run: &Run| {
            let want = giving.turns[run.turn].want;
            Some(PermitGrant {
                repository: want.repository.clone(),
                digest: want.key.digest,
                first: PieceIndex(run.first),
                pieces: run.pieces,
                range: want.key.range(run.first, run.pieces)?,
                deadline_ms: run.deadline_ms,
                permit_id: run.permit_id,
            })
        };
        let grants = giving.runs.iter().filter_map(grant).collect();
        let hash = self.members.get(&giving.id).map_or(0, |state| state.hash);
        let jitter = (mix(hash ^ self.now_ms) % RETRY_JITTER_MS) as u32;
        let wait = (RETRY_MS + self.askers.active() / ASKERS_PER_MS).min(RETRY_MS_MAX);
        let retry_after_ms = if giving.turns.is_empty() { RETRY_MS_MAX } else { wait + jitter };
        PermitAnswer { grants, refusals, retry_after_ms }
    }

    /// Whom to ask instead: for the pieces clients wait at, then for the first ones wanted.
    fn refusals(&self, giving: &Giving<'_>) -> Vec<rpc::Refusal> {
        let plain = giving.lacking().filter(|place| !giving.refused.contains(place));
        let mut refusals = Vec::new();
        for (at, piece) in giving.refused.iter().copied().chain(plain) {
            let turn = &giving.turns[at];
            let Some(blob) = self.blobs.get(&turn.blob) else {
                continue;
            };
            if blob.is_open(piece) || blob.permit_of(piece, giving.id).is_some() {
                continue;
            }
            let holders = self.holders(giving.id, turn.blob, piece);
            if !holders.is_empty() {
                let digest = turn.want.key.digest.to_string();
                refusals.push(rpc::Refusal { digest, piece, holders });
            }
            if refusals.len() == REFUSALS_MAX {
                break;
            }
        }
        refusals
    }

    fn holders(&self, id: MemberId, blob_id: BlobId, piece: u32) -> Vec<rpc::Peer> {
        let Some((blob, asker)) = self.blobs.get(&blob_id).zip(self.members.get(&id)) else {
            return Vec::new();
        };
        let seed = asker.hash ^ mix(u64::from(piece));
        let named = blob.holders(piece, seed, HOLDERS_NAMED_MAX + 1);
        let mut named: Vec<_> = named
            .into_iter()
            .filter(|holder| *holder != id)
            .filter_map(|holder| self.members.get(&holder))
            .collect();
        named.sort_by_key(|holder| holder.zone != asker.zone);
        named.into_iter().take(HOLDERS_NAMED_MAX).map(|holder| holder.peer()).collect()
    }
}

impl Turn<'_> {
    /// Where clients wait for something that is not here.
    fn urgent(&self) -> impl Iterator<Item = u32> + '_ {
        let lacks = |piece: &u32| !self.want.have.contains(PieceIndex(*piece));
        self.want.urgent.iter().copied().filter(lacks)
    }

    /// The pieces not here, in order.
    fn lacking(&self) -> impl Iterator<Item = u32> + '_ {
        let have = &self.want.have;
        let words = have.words().iter().enumerate();
        words.flat_map(|(at, word)| bits(at, !word)).take_while(|piece| *piece < have.pieces())
    }
}

impl Giving<'_> {
    /// Turn and piece of what the asker lacks, in its order; only so many.
    fn lacking(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let turns = self.turns.iter().enumerate();
        turns
            .flat_map(|(at, turn)| turn.lacking().map(move |piece| (at, piece)))
            .take(REFUSALS_SCANNED_MAX)
    }
}
