//! Who is connected, who could be, and who is not talked to.
//!
//! A connected peer has one of 64 slots, so that sets of peers are one word. The order in which
//! unconnected peers are dialled differs from node to node by the engine's seed.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;

use super::limits::{IDLE, KNOWN_MAX, Limits, PROGRESS_BYTES_MIN, REDIAL_MAX, REDIAL_MIN};

/// A connected peer's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u8);

/// More than this many slots do not fit into a word.
const SLOTS_MAX: usize = 64;
/// A connection that ends sooner than this was none.
const SHORT: Duration = Duration::from_secs(3);
/// Pieces that a peer was named for and that are reported when it can not be reached.
const NAMED_MAX: usize = 8;

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) same_zone: bool,
    /// Ties are broken by this.
    pub(super) hash: u64,
    /// Requests that it owes.
    pub(super) owes: u32,
    /// How many it may owe: falls with BUSY, grows with every piece.
    pub(super) limit: u32,
    pub(super) busy_until: Duration,
    pub(super) busy_streak: u32,
    pub(super) stalls: u32,
    /// It has stalled and not redeemed itself: asked last, one request at a time.
    pub(super) slow: bool,
    /// What it has was forgotten when it stalled; it is asked again.
    pub(super) unheard: bool,
    /// When bytes last came, or the first of its debts began.
    pub(super) moved_at: Duration,
    /// When anything last moved, in either direction.
    pub(super) used_at: Duration,
    /// When it was connected.
    since: Duration,
    dripped: u64,
}

/// A peer whose address is known.
#[derive(Debug, Default)]
struct Known {
    same_zone: bool,
    dialing: bool,
    failures: u32,
    dial_at: Duration,
    shunned_until: Duration,
    /// The tracker named it as a holder of these; it is dialled before others.
    named: Vec<(Digest, PieceIndex)>,
}

#[derive(Debug)]
pub(super) struct Peers {
    seed: u64,
    slots: Vec<Option<Peer>>,
    by_id: BTreeMap<PeerId, Slot>,
    known: BTreeMap<PeerId, Known>,
    dialing: usize,
    /// No dial is due before this.
    dials_at: Duration,
}

impl Slot {
    pub(super) const fn bit(self) -> u64 {
        1 << self.0
    }

    pub(super) fn all(mask: u64) -> impl Iterator<Item = Self> {
        (0..SLOTS_MAX as u8).filter(move |at| mask >> at & 1 == 1).map(Self)
    }
}

impl Peer {
    /// Bytes came; a drip does not count.
    pub(super) fn progress(&mut self, now: Duration, bytes: u64) {
        self.dripped += bytes;
        if self.dripped >= PROGRESS_BYTES_MIN {
            self.dripped = 0;
            self.moved_at = now;
            self.used_at = now;
        }
    }

    fn may_owe(&self) -> u32 {
        if self.slow { 1 } else { self.limit }
    }
}

impl Peers {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            known: BTreeMap::new(),
            dialing: 0,
            dials_at: Duration::ZERO,
        }
    }

    /// Remembers a peer; when too many are known, one that could not be reached makes room.
    pub(super) fn meet(&mut self, peer: PeerId, same_zone: bool) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&peer) {
            let worst = self.known.iter().filter(|(_, known)| known.shunned_until.is_zero());
            let Some(worst) = worst.max_by_key(|(_, known)| known.failures).map(|(id, _)| *id)
            else {
                return;
            };
            self.end_dial(&worst);
            self.known.remove(&worst);
        }
        self.known.entry(peer).or_default().same_zone = same_zone;
        self.dials_at = Duration::ZERO;
    }

    /// The tracker says that this peer holds, or fetches, a piece. False: it is of no use here.
    pub(super) fn name(
        &mut self,
        now: Duration,
        peer: PeerId,
        digest: Digest,
        piece: PieceIndex,
    ) -> bool {
        if let Some(connected) = self.slot(&peer).and_then(|slot| self.get(slot)) {
            return !connected.slow;
        }
        if let Some(known) = self.known.get_mut(&peer) {
            if known.shunned_until > now || known.failures > 1 {
                return false;
            }
            if known.named.len() < NAMED_MAX && !known.named.contains(&(digest, piece)) {
                known.named.push((digest, piece));
            }
            self.dials_at = Duration::ZERO;
        }
        true
    }

    /// Gives a peer a slot. `None`: it is shunned, or there is no place.
    pub(super) fn connect(
        &mut self,
        now: Duration,
        id: PeerId,
        same_zone: bool,
        limits: &Limits,
    ) -> Option<Slot> {
        self.end_dial(&id);
        self.meet(id, same_zone);
        if let Some(known) = self.known.get_mut(&id) {
            if known.shunned_until > now {
                return None;
            }
            known.named.clear();
        }
        if let Some(slot) = self.by_id.get(&id) {
            return Some(*slot);
        }
        if self.by_id.len() >= limits.peers.min(SLOTS_MAX) {
            return None;
        }
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let peer = Peer {
            id,
            same_zone,
            hash: mix(self.seed ^ fold(&id)),
            owes: 0,
            limit: limits.requests_per_peer,
            busy_until: Duration::ZERO,
            busy_streak: 0,
            stalls: 0,
            slow: false,
            unheard: false,
            moved_at: now,
            used_at: now,
            since: now,
            dripped: 0,
        };
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(peer);
        let slot = Slot(free as u8);
        self.by_id.insert(id, slot);
        Some(slot)
    }

    /// Frees a peer's slot.
    pub(super) fn disconnect(&mut self, now: Duration, id: &PeerId) -> Option<Slot> {
        self.end_dial(id);
        let slot = self.by_id.remove(id)?;
        let since = self.slots[slot.0 as usize].take().map_or(now, |peer| peer.since);
        if let Some(known) = self.known.get_mut(id) {
            // Whoever hangs up at once has no place for us.
            let short = now < since + SHORT;
            known.failures = if short { known.failures.saturating_add(1) } else { 0 };
            known.dial_at = now + redial(known.failures);
        }
        self.dials_at = Duration::ZERO;
        Some(slot)
    }

    /// A dial led to nothing; returns the pieces for which the peer was named.
    pub(super) fn dial_failed(&mut self, now: Duration, id: &PeerId) -> Vec<(Digest, PieceIndex)> {
        self.end_dial(id);
        self.dials_at = Duration::ZERO;
        let Some(known) = self.known.get_mut(id) else { return Vec::new() };
        known.failures = known.failures.saturating_add(1);
        known.dial_at = now + redial(known.failures);
        std::mem::take(&mut known.named)
    }

    fn end_dial(&mut self, id: &PeerId) {
        if let Some(known) = self.known.get_mut(id).filter(|known| known.dialing) {
            known.dialing = false;
            self.dialing -= 1;
        }
    }

    /// Does not talk to a peer until then.
    pub(super) fn shun(&mut self, id: PeerId, until: Duration) {
        let known = self.known.entry(id).or_default();
        known.shunned_until = until;
        known.dial_at = until;
    }

    /// Whom to dial now: holders that the tracker named, then others up to the number sought.
    pub(super) fn dials(&mut self, now: Duration, sought: usize, most: usize) -> Vec<PeerId> {
        let busy = self.by_id.len() + self.dialing;
        if now < self.dials_at || busy >= most {
            return Vec::new();
        }
        let mut due: Vec<_> = self
            .known
            .iter()
            .filter(|(id, known)| !known.dialing && !self.by_id.contains_key(id))
            .map(|(id, known)| {
                let turn = mix(self.seed ^ fold(id));
                (known.named.is_empty(), !known.same_zone, turn, known.dial_at, *id)
            })
            .collect();
        self.dials_at =
            due.iter().map(|(_, _, _, at, _)| *at).min().unwrap_or(Duration::MAX).max(now);
        due.retain(|(_, _, _, at, _)| *at <= now);
        due.sort();
        let room = |unnamed: bool| if unnamed { sought } else { most };
        let mut dials = Vec::new();
        for (unnamed, _, _, _, id) in due {
            if busy + dials.len() < room(unnamed) {
                dials.push(id);
                self.known.entry(id).or_default().dialing = true;
                self.dialing += 1;
            }
        }
        if dials.is_empty() {
            self.dials_at = self.dials_at.max(now + REDIAL_MIN);
        }
        dials
    }

    /// Connected peers that may be asked now, in groups from the best to the worst: those that
    /// have not stalled, of the same zone, that owe least.
    pub(super) fn groups(&self, now: Duration) -> Vec<u64> {
        let mut groups: BTreeMap<(bool, bool, u32), u64> = BTreeMap::new();
        for (slot, peer) in self.connected() {
            if peer.owes < peer.may_owe() && peer.busy_until <= now {
                *groups.entry((peer.slow, !peer.same_zone, peer.owes)).or_default() |= slot.bit();
            }
        }
        groups.into_values().collect()
    }

    /// Peers that stalled a while ago and are to say again what they have.
    pub(super) fn unheard(&mut self, now: Duration) -> Vec<PeerId> {
        let due = self.slots.iter_mut().flatten().filter(|it| it.unheard && it.busy_until <= now);
        due.map(|peer| {
            peer.unheard = false;
            peer.id
        })
        .collect()
    }

    /// A connection that may be closed because nothing moves on it and there are many.
    pub(super) fn idle(&self, now: Duration, limits: &Limits) -> Option<PeerId> {
        if self.by_id.len() <= limits.peers_sought {
            return None;
        }
        let idle = self.connected().filter(|(_, peer)| peer.owes == 0 && peer.used_at + IDLE < now);
        idle.min_by_key(|(_, peer)| peer.used_at).map(|(_, peer)| peer.id)
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = (Slot, &Peer)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(at, peer)| Some((Slot(at as u8), peer.as_ref()?)))
    }

    pub(super) fn slot(&self, id: &PeerId) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Peer> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Peer> {
        self.slots.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(super) fn ids(&self, mask: u64) -> Vec<PeerId> {
        Slot::all(mask).filter_map(|slot| Some(self.get(slot)?.id)).collect()
    }

    pub(super) fn mask(&self) -> u64 {
        self.connected().fold(0, |mask, (slot, _)| mask | slot.bit())
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

fn redial(failures: u32) -> Duration {
    (REDIAL_MIN * 4_u32.pow(failures.saturating_sub(1).min(5))).min(REDIAL_MAX)
}

/// SplitMix64's finish: every bit of the result hangs on every bit of the input.
pub(super) const fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn fold(id: &PeerId) -> u64 {
    let multihash: &libp2p::multihash::Multihash<64> = id.as_ref();
    multihash.digest().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
