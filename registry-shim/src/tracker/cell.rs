//! A cell: the members that share one origin copy. A pure state machine.
//!
//! Owns the tables and the life of members; what they hold is in `holdings`, what they may read
//! in `permits` and `grant`, whom they do not reach in `report`, whom they are told of in `peers`.
//! Time only moves forward in it, however the callers' clocks cross.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::Digest;

use super::blob::{Blob, BlobId};
use super::limits::{BLOB_IDLE_MS, MEMBERS_MAX, NAME_CHARS_MAX, PERIODS_UNTIL_GONE};
use super::member::{MemberId, MemberState, mix};
use super::metrics::Tally;
use super::report::Reports;
use super::request::BlobKey;
use super::window::{Askers, ExtraBudget, Window};
use super::{Member, TrackerConfig, TrackerError};

#[derive(Debug)]
pub(super) struct Cell {
    pub(super) config: TrackerConfig,
    pub(super) now_ms: u64,
    born_ms: u64,
    /// Its first members were in mid-pull: another instance knew more than this one does.
    recovering: bool,
    pub(super) members: BTreeMap<MemberId, MemberState>,
    pub(super) by_peer: BTreeMap<String, MemberId>,
    /// When each member last spoke.
    spoke: BTreeSet<(u64, MemberId)>,
    pub(super) blobs: BTreeMap<BlobId, Blob>,
    pub(super) by_key: BTreeMap<BlobKey, BlobId>,
    /// Sum of all blobs' pieces.
    pub(super) pieces: u64,
    pub(super) wanters: BTreeMap<Digest, BTreeSet<MemberId>>,
    pub(super) deadlines: BTreeSet<(u64, BlobId, u32, MemberId)>,
    pub(super) reports: Reports,
    pub(super) window: Window,
    pub(super) extra: ExtraBudget,
    pub(super) askers: Askers,
    next_member: u64,
    pub(super) next_blob: u64,
    next_permit: u64,
    idle_swept_ms: u64,
    pub(super) tally: Tally,
    members_tallied: i64,
}

impl Cell {
    pub(super) fn new(config: TrackerConfig, now_ms: u64) -> Self {
        Self {
            config,
            now_ms,
            born_ms: now_ms,
            recovering: false,
            members: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            spoke: BTreeSet::new(),
            blobs: BTreeMap::new(),
            by_key: BTreeMap::new(),
            pieces: 0,
            wanters: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            reports: Reports::default(),
            window: Window::new(),
            extra: ExtraBudget::new(config.extra_percent),
            askers: Askers::default(),
            next_member: 1,
            next_blob: 1,
            next_permit: mix(config.seed),
            idle_swept_ms: now_ms,
            tally: Tally::default(),
            members_tallied: 0,
        }
    }

    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What happened since the last call.
    pub(super) fn take_tally(&mut self) -> Tally {
        let members = self.members.len() as i64;
        self.tally.members = members - self.members_tallied;
        self.members_tallied = members;
        std::mem::take(&mut self.tally)
    }

    /// The members that tallies have told of.
    pub(super) const fn members_counted(&self) -> i64 {
        self.members_tallied
    }

    /// A member speaks: it is known, and alive, from now on.
    pub(super) fn join(&mut self, now_ms: u64, member: &Member) -> Result<MemberId, TrackerError> {
        self.sweep(now_ms);
        let now_ms = self.now_ms;
        let id = match self.by_peer.get(&member.peer_id) {
            Some(id) => *id,
            None => self.admit(member)?,
        };
        let state = self.members.get_mut(&id).expect("`by_peer` names members only");
        self.spoke.remove(&(state.spoke_ms, id));
        self.spoke.insert((now_ms, id));
        state.spoke_ms = now_ms;
        if state.zone != member.zone {
            state.zone.clone_from(&member.zone);
        }
        state.move_to(&member.addresses);
        Ok(id)
    }

    fn admit(&mut self, member: &Member) -> Result<MemberId, TrackerError> {
        if member.peer_id.len().max(member.zone.len()) > NAME_CHARS_MAX {
            let why = format!("PeerId or zone has more than {NAME_CHARS_MAX} characters");
            return Err(TrackerError::Invalid { field: "session", why });
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(TrackerError::Full("member"));
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        self.members.insert(id, MemberState::new(self.now_ms, member));
        self.by_peer.insert(member.peer_id.clone(), id);
        self.spoke.insert((self.now_ms, id));
        Ok(id)
    }

    /// Forgets a member with all that it holds and reads.
    pub(super) fn forget(&mut self, id: MemberId) {
        let Some(state) = self.members.get(&id) else {
            return;
        };
        for (blob, piece) in state.permits.clone() {
            self.reopen(blob, piece, id);
        }
        for blob in state_blobs(&self.members, id) {
            self.hold_nothing(id, blob);
        }
        self.want_exactly(id, BTreeSet::new());
        if let Some(state) = self.members.remove(&id) {
            self.by_peer.remove(&state.peer_id);
            self.spoke.remove(&(state.spoke_ms, id));
        }
        self.reports.forget(id);
    }

    /// Lets time pass: silent members and overdue permits count no more.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        let silence = self.silence_ms();
        while let Some((spoke_ms, id)) = self.spoke.first().copied() {
            if spoke_ms + silence >= self.now_ms {
                break;
            }
            self.forget(id);
        }
        self.expire_permits();
        if self.now_ms >= self.idle_swept_ms + silence {
            self.idle_swept_ms = self.now_ms;
            self.reports.expire(self.now_ms);
            let idle = |(_, blob): &(&BlobId, &Blob)| {
                blob.is_unused() && blob.used_ms + BLOB_IDLE_MS < self.now_ms
            };
            let idle: Vec<BlobId> = self.blobs.iter().filter(idle).map(|(id, _)| *id).collect();
            idle.into_iter().for_each(|id| self.forget_blob(id));
        }
    }

    /// A member that is silent for longer is gone; a report counts for as long.
    pub(super) fn silence_ms(&self) -> u64 {
        PERIODS_UNTIL_GONE * u64::from(self.config.announce_period_ms)
    }

    /// A call shows that pieces are held or read of which this cell, just born, knows nothing.
    pub(super) fn saw_earlier_life(&mut self) {
        self.recovering |= self.now_ms < self.born_ms + u64::from(self.config.recovery_ms);
    }

    /// Whether to listen before anything is given.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovering && self.now_ms < self.born_ms + u64::from(self.config.recovery_ms)
    }

    pub(super) const fn new_permit_id(&mut self) -> u64 {
        self.next_permit = self.next_permit.wrapping_add(1);
        if self.next_permit == 0 {
            self.next_permit = 1;
        }
        self.next_permit
    }
}

/// The blobs of which a member holds something.
pub(super) fn state_blobs(members: &BTreeMap<MemberId, MemberState>, id: MemberId) -> Vec<BlobId> {
    members.get(&id).map(|state| state.blobs.iter().copied().collect()).unwrap_or_default()
}
