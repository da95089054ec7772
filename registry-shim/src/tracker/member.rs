//! One member of a cell.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::Digest;
use longshore_proto::rpc::origin as rpc;

use super::Member;
use super::blob::BlobId;
use super::limits::{ADDRESS_CHARS_MAX, ADDRESSES_MAX, REPORTS_PER_PERIOD_MAX};

/// A member's number in its cell; never used again, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(pub(super) u64);

/// What is known of a member.
#[derive(Debug)]
pub(super) struct MemberState {
    pub(super) peer_id: String,
    pub(super) zone: String,
    pub(super) addresses: Vec<String>,
    /// Of the PeerId: rotates samples.
    pub(super) hash: u64,
    pub(super) joined_ms: u64,
    pub(super) spoke_ms: u64,
    /// Of the last announce; `None` before the first complete one.
    pub(super) sequence: Option<u64>,
    /// Blobs of which it holds something.
    pub(super) blobs: BTreeSet<BlobId>,
    /// Sum of those blobs' pieces.
    pub(super) pieces: u64,
    pub(super) wanted: BTreeSet<Digest>,
    pub(super) permits: BTreeSet<(BlobId, u32)>,
    /// Permits in a row that passed their deadline.
    pub(super) strikes: u32,
    pub(super) asking: Asking,
    reports: (u64, u32),
}

/// How a member's asking for permits goes.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// See `Askers::count`.
    pub(super) period: Option<u64>,
    pub(super) last_ms: Option<u64>,
    /// When it last gained a piece, or began to ask.
    pub(super) progress_ms: u64,
    /// The most pieces it wanted in one request since it began to ask.
    pub(super) pool_pieces: u64,
    /// Since when clients have been waiting at pieces.
    pub(super) urgent: BTreeMap<(BlobId, u32), u64>,
}

impl MemberState {
    pub(super) fn new(now_ms: u64, member: &Member) -> Self {
        Self {
            peer_id: member.peer_id.clone(),
            zone: member.zone.clone(),
            addresses: Vec::new(),
            hash: hash(member.peer_id.as_bytes()),
            joined_ms: now_ms,
            spoke_ms: now_ms,
            sequence: None,
            blobs: BTreeSet::new(),
            pieces: 0,
            wanted: BTreeSet::new(),
            permits: BTreeSet::new(),
            strikes: 0,
            asking: Asking::default(),
            reports: (0, 0),
        }
    }

    /// Takes addresses that a peer could dial; none at all changes nothing.
    pub(super) fn move_to(&mut self, addresses: &[String]) {
        let usable: Vec<String> =
            addresses.iter().filter(|a| is_dialable(a)).take(ADDRESSES_MAX).cloned().collect();
        if !usable.is_empty() {
            self.addresses = usable;
        }
    }

    pub(super) fn peer(&self) -> rpc::Peer {
        rpc::Peer {
            peer_id: self.peer_id.clone(),
            addresses: self.addresses.clone(),
            zone: self.zone.clone(),
        }
    }

    /// Whether one more report of this member counts in this period.
    pub(super) const fn may_report(&mut self, period: u64) -> bool {
        if self.reports.0 != period {
            self.reports = (period, 0);
        }
        self.reports.1 += 1;
        self.reports.1 <= REPORTS_PER_PERIOD_MAX
    }
}

/// An unspecified IP means something only in a Join, where the origin replaces it.
fn is_dialable(address: &str) -> bool {
    let unspecified = ["/ip4/0.0.0.0/", "/ip6/::/"];
    address.len() <= ADDRESS_CHARS_MAX
        && address.starts_with('/')
        && !unspecified.iter().any(|prefix| address.starts_with(prefix))
}

/// FNV-1a, then spread: the same in every instance and on every machine.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
