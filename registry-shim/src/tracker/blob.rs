//! One blob in one cell: who holds which pieces, which are being read, which nobody has.
//!
//! Keeps counts by piece so that no decision looks at pieces times members: members that hold all
//! of it are only counted, `free` is the set of pieces without a partial holder and without
//! a permit, and a cursor remembers where its first one lies.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use longshore_proto::piece::{PieceIndex, PieceSet};

use super::member::{MemberId, mix};
use super::request::{BlobKey, Held};

/// A blob's number in its cell; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlobId(pub(super) u64);

/// Leave that is out for one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    pub(super) id: u64,
    pub(super) member: MemberId,
    pub(super) given_ms: u64,
    pub(super) deadline_ms: u64,
}

/// What a change of someone's holdings did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Something came that was not held before.
    pub(super) gained: bool,
    /// Pieces that nobody holds or reads any more.
    pub(super) reopened: u32,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) key: BlobKey,
    pub(super) used_ms: u64,
    wholes: BTreeSet<MemberId>,
    partials: BTreeMap<MemberId, PieceSet>,
    /// Partial holders of each piece.
    copies: Vec<u32>,
    /// The last two partial holders of each piece, as far as they still are.
    recent: Vec<[MemberId; 2]>,
    /// No partial holder, no permit.
    free: PieceSet,
    /// No word of `free` before this one has a piece.
    cursor: usize,
    permits: BTreeMap<u32, Vec<Permit>>,
}

/// Members that [`sample`] looks at for each one it is asked for.
const PROBES_PER_PICK: usize = 2;
/// Partial holders of a blob that are looked at to find some that hold one piece.
const HOLDERS_SCANNED_MAX: usize = 32;

impl Blob {
    pub(super) fn new(key: BlobKey, now_ms: u64) -> Self {
        let pieces = key.pieces();
        Self {
            key,
            used_ms: now_ms,
            wholes: BTreeSet::new(),
            partials: BTreeMap::new(),
            copies: vec![0; pieces as usize],
            recent: vec![[MemberId(0); 2]; pieces as usize],
            free: PieceSet::full(pieces),
            cursor: 0,
            permits: BTreeMap::new(),
        }
    }

    pub(super) fn pieces(&self) -> u32 {
        self.free.pieces()
    }

    pub(super) fn holds(&self, member: MemberId, piece: u32) -> bool {
        self.wholes.contains(&member)
            || self.partials.get(&member).is_some_and(|held| held.contains(PieceIndex(piece)))
    }

    /// Nobody holds it and nobody reads it.
    pub(super) fn is_open(&self, piece: u32) -> bool {
        self.wholes.is_empty() && self.free.contains(PieceIndex(piece))
    }

    /// Live members that hold or read the piece.
    pub(super) fn served(&self, piece: u32) -> usize {
        let copies = self.copies.get(piece as usize).map_or(0, |copies| *copies as usize);
        self.wholes.len() + copies + self.permits_of(piece).len()
    }

    pub(super) fn permits_of(&self, piece: u32) -> &[Permit] {
        self.permits.get(&piece).map_or(&[], Vec::as_slice)
    }

    pub(super) fn permit_of(&self, piece: u32, member: MemberId) -> Option<&Permit> {
        self.permits_of(piece).iter().find(|permit| permit.member == member)
    }

    /// Nobody holds, or reads, any of it.
    pub(super) fn is_unused(&self) -> bool {
        self.wholes.is_empty() && self.partials.is_empty() && self.permits.is_empty()
    }

    pub(super) fn holder_ids(&self) -> Vec<MemberId> {
        self.wholes.iter().chain(self.partials.keys()).copied().collect()
    }

    pub(super) fn permit_holders(&self) -> Vec<(u32, Permit)> {
        let one = |(piece, permits): (&u32, &Vec<Permit>)| {
            let piece = *piece;
            permits.iter().map(move |permit| (piece, *permit)).collect::<Vec<_>>()
        };
        self.permits.iter().flat_map(one).collect()
    }

    /// What a member is known to hold; `None` for nothing.
    pub(super) fn held(&self, member: MemberId) -> Option<Held> {
        if self.wholes.contains(&member) {
            return Some(Held::Whole);
        }
        self.partials.get(&member).cloned().map(Held::Pieces)
    }

    /// The member holds this and nothing else of the blob.
    pub(super) fn hold(&mut self, member: MemberId, held: Held) -> Change {
        // Most of what a request tells is as before.
        let is_known = match &held {
            Held::Whole => self.wholes.contains(&member),
            Held::Pieces(new) => self.partials.get(&member) == Some(new),
        };
        if is_known {
            return Change::default();
        }
        let open_before = self.open_count();
        let was_whole = self.wholes.remove(&member);
        let mut gained = false;
        match held {
            Held::Whole => {
                gained = !was_whole;
                self.wholes.insert(member);
                let old = self.partials.remove(&member);
                self.count(member, old.as_ref(), None);
            }
            Held::Pieces(new) => {
                let old = self.partials.remove(&member);
                gained |= self.count(member, old.as_ref(), Some(&new)) && !was_whole;
                if !new.is_empty() {
                    self.partials.insert(member, new);
                }
            }
        }
        Change { gained, reopened: self.open_count().saturating_sub(open_before) }
    }

    /// Moves the counts from one set of a member to another; true when it gained a piece.
    fn count(&mut self, member: MemberId, old: Option<&PieceSet>, new: Option<&PieceSet>) -> bool {
        let mut any_gained = false;
        for at in 0..self.free.words().len() {
            let word = |set: Option<&PieceSet>| set.map_or(0, |set| set.words()[at]);
            let (old, new) = (word(old), word(new));
            for piece in bits(at, new & !old) {
                any_gained = true;
                let index = piece as usize;
                self.copies[index] += 1;
                self.recent[index] = [member, self.recent[index][0]];
                self.settle(piece);
            }
            for piece in bits(at, old & !new) {
                self.copies[piece as usize] -= 1;
                self.settle(piece);
            }
        }
        any_gained
    }

    /// Puts the piece into `free`, or takes it out, as it now is.
    fn settle(&mut self, piece: u32) {
        if self.copies[piece as usize] == 0 && !self.permits.contains_key(&piece) {
            self.free.insert(PieceIndex(piece));
            self.cursor = self.cursor.min(piece as usize / 64);
        } else {
            self.free.remove(PieceIndex(piece));
        }
    }

    /// How many pieces nobody holds or reads.
    fn open_count(&self) -> u32 {
        if self.wholes.is_empty() { self.free.len() } else { 0 }
    }

    /// The first `max` open pieces that `have` lacks, in order.
    pub(super) fn open_for(&mut self, have: &PieceSet, max: usize) -> Vec<u32> {
        let mut found = Vec::new();
        if max == 0 || self.open_count() == 0 {
            return found;
        }
        while self.free.words().get(self.cursor).is_some_and(|word| *word == 0) {
            self.cursor += 1;
        }
        for (at, word) in self.free.words().iter().enumerate().skip(self.cursor) {
            for piece in bits(at, word & !have.words()[at]) {
                found.push(piece);
                if found.len() == max {
                    return found;
                }
            }
        }
        found
    }

    pub(super) fn permit(&mut self, piece: u32, permit: Permit) {
        self.permits.entry(piece).or_default().push(permit);
        self.settle(piece);
    }

    /// Takes a member's permit back, with whether the piece is open now.
    pub(super) fn release(&mut self, piece: u32, member: MemberId) -> Option<(Permit, bool)> {
        let permits = self.permits.get_mut(&piece)?;
        let at = permits.iter().position(|permit| permit.member == member)?;
        let permit = permits.remove(at);
        if permits.is_empty() {
            self.permits.remove(&piece);
        }
        self.settle(piece);
        Some((permit, self.is_open(piece)))
    }

    /// Some members that hold the piece, or where nobody does, those that read it.
    pub(super) fn holders(&self, piece: u32, seed: u64, max: usize) -> Vec<MemberId> {
        let mut found = self.sample_wholes(seed, max);
        if found.len() < max && self.copies.get(piece as usize).is_some_and(|copies| *copies > 0) {
            let recent = self.recent[piece as usize];
            let scanned = self.sample_partials(seed, HOLDERS_SCANNED_MAX);
            for member in recent.into_iter().chain(scanned) {
                if self.holds(member, piece) && !found.contains(&member) {
                    found.push(member);
                }
            }
        }
        if found.is_empty() {
            found.extend(self.permits_of(piece).iter().map(|permit| permit.member));
        }
        found.sort_by_key(|member| mix(seed ^ member.0));
        found
    }

    pub(super) fn sample_wholes(&self, seed: u64, wanted: usize) -> Vec<MemberId> {
        sample_set(&self.wholes, seed, wanted)
    }

    pub(super) fn sample_partials(&self, seed: u64, wanted: usize) -> Vec<MemberId> {
        sample_keys(&self.partials, seed, wanted)
    }
}

/// Some of a set, different for each seed, without walking the whole of it.
pub(super) fn sample_set(set: &BTreeSet<MemberId>, seed: u64, wanted: usize) -> Vec<MemberId> {
    let ends = set.first().copied().zip(set.last().copied());
    sample(set.len(), ends, seed, wanted, |after| {
        set.range((Excluded(after), Unbounded)).next().copied()
    })
}

/// As [`sample_set`], of a map's keys.
pub(super) fn sample_keys<V>(
    map: &BTreeMap<MemberId, V>,
    seed: u64,
    wanted: usize,
) -> Vec<MemberId> {
    let first = map.first_key_value().map(|(member, _)| *member);
    let ends = first.zip(map.last_key_value().map(|(member, _)| *member));
    sample(map.len(), ends, seed, wanted, |after| {
        map.range((Excluded(after), Unbounded)).next().map(|(member, _)| *member)
    })
}

fn sample(
    count: usize,
    ends: Option<(MemberId, MemberId)>,
    seed: u64,
    wanted: usize,
    next_after: impl Fn(MemberId) -> Option<MemberId>,
) -> Vec<MemberId> {
    let Some((first, last)) = ends else {
        return Vec::new();
    };
    // Ids begin at 1, so there is always one before the first.
    let before_first = MemberId(first.0 - 1);
    if count <= wanted {
        return std::iter::successors(next_after(before_first), |id| next_after(*id)).collect();
    }
    let span = last.0 - first.0 + 1;
    let mut found = BTreeSet::new();
    for probe in 0..(wanted * PROBES_PER_PICK) as u64 {
        if found.len() == wanted {
            break;
        }
        let after = before_first.0 + mix(seed ^ mix(probe)) % span;
        found.extend(next_after(MemberId(after)));
    }
    found.into_iter().collect()
}

/// The pieces of one word of a set.
pub(super) fn bits(at: usize, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(at as u32 * 64 + bit)
    })
}
