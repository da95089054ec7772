//! What the tracker is told, and when.
//!
//! Changes only, each period and soon after a blob is whole; everything when the tracker asks for
//! it or an announce was lost. Periods vary by a fifth, so that nodes that booted together do not
//! announce together.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::PeerId;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, RepositoryName};
use tokio::time::Instant;

use crate::store::PieceStore;

/// Between announces, until the tracker says otherwise.
pub(crate) const PERIOD: Duration = Duration::from_secs(5);
const PERIOD_MIN: Duration = Duration::from_millis(500);
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// News worth an announce of their own wait this long for company.
const SOON: Duration = Duration::from_millis(100);
/// Announces that failed are repeated after this long.
const RETRY: Duration = Duration::from_secs(1);
/// Blobs in one announce; the rest comes with the next.
const HOLDINGS_MAX: usize = 1000;
/// Served amounts that are remembered until they are told.
const SERVED_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Announcer {
    /// When the next one is due; not before an answer to the last.
    at: Instant,
    in_flight: bool,
    sequence: u64,
    complete: bool,
    period: Duration,
    /// How many pieces of each blob were told.
    told: BTreeMap<Digest, u32>,
    telling: BTreeMap<Digest, u32>,
    served: BTreeMap<(RepositoryName, Digest, PeerId), u64>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self {
            at: Instant::now(),
            in_flight: false,
            sequence: 0,
            complete: true,
            period: PERIOD,
            told: BTreeMap::new(),
            telling: BTreeMap::new(),
            served: BTreeMap::new(),
        }
    }

    /// When the next announce is due; `None` while one is on its way.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.in_flight).then_some(self.at)
    }

    /// There is news that others wait for.
    pub(super) fn soon(&mut self) {
        self.at = self.at.min(Instant::now() + SOON);
    }

    /// A peer got bytes of a blob.
    pub(super) fn served(
        &mut self,
        repository: RepositoryName,
        digest: Digest,
        peer: PeerId,
        bytes: u64,
    ) {
        let key = (repository, digest, peer);
        if self.served.len() < SERVED_MAX || self.served.contains_key(&key) {
            *self.served.entry(key).or_default() += bytes;
        }
    }

    /// The next announce, except for what the engine knows.
    pub(super) fn next(&mut self, store: &PieceStore) -> rpc::AnnounceRequest {
        self.in_flight = true;
        self.sequence += 1;
        let mut now = BTreeMap::new();
        let mut holdings = Vec::new();
        self.telling.clear();
        for blob in store.blobs() {
            let held = blob.held();
            now.insert(blob.digest(), held.len());
            let told = self.told.get(&blob.digest()).copied().unwrap_or(0);
            let news = if self.complete { !held.is_empty() } else { held.len() != told };
            let Some(repository) = blob.repositories().into_iter().next() else { continue };
            if news && holdings.len() < HOLDINGS_MAX {
                self.telling.insert(blob.digest(), held.len());
                holdings.push(rpc::Holding {
                    repository: repository.to_string(),
                    digest: blob.digest().to_string(),
                    size: blob.size(),
                    piece_length: blob.list().list.piece_bytes(),
                    whole: held.is_full(),
                    bitmap: if held.is_full() { vec![] } else { held.to_bitmap() }.into(),
                });
            }
        }
        let gone = |digest: &&Digest| !now.contains_key(*digest);
        let dropped: Vec<Digest> =
            self.told.keys().filter(gone).take(HOLDINGS_MAX).copied().collect();
        for digest in &dropped {
            self.told.remove(digest);
        }
        let served = std::mem::take(&mut self.served).into_iter();
        rpc::AnnounceRequest {
            sequence: self.sequence,
            complete: self.complete && holdings.len() < HOLDINGS_MAX,
            holdings,
            dropped_digests: dropped.iter().map(Digest::to_string).collect(),
            served: served
                .map(|((repository, digest, peer), bytes)| rpc::Served {
                    repository: repository.to_string(),
                    digest: digest.to_string(),
                    peer_id: peer.to_string(),
                    bytes,
                })
                .collect(),
            ..Default::default()
        }
    }

    /// The tracker took it in.
    pub(super) fn taken(&mut self, answer: &rpc::AnnounceResponse) {
        self.in_flight = false;
        self.complete = answer.resync;
        self.told.append(&mut self.telling);
        if answer.next_announce_ms > 0 {
            let period = Duration::from_millis(u64::from(answer.next_announce_ms));
            self.period = period.clamp(PERIOD_MIN, PERIOD_MAX);
        }
        let wait = if answer.resync { SOON } else { self.period };
        self.at = Instant::now() + jitter(wait);
    }

    /// It did not; what it would have learned is told again.
    pub(super) fn lost(&mut self) {
        self.in_flight = false;
        self.complete = true;
        self.at = Instant::now() + jitter(RETRY.min(self.period));
    }

    /// The last one.
    pub(super) fn leaving(&mut self) -> rpc::AnnounceRequest {
        self.sequence += 1;
        rpc::AnnounceRequest { sequence: self.sequence, leaving: true, ..Default::default() }
    }
}

/// Four to six fifths of it.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.8..1.2))
}
