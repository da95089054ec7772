//! The worker that watches a home's stores, and brings the primary what it missed.
//!
//! Steps every half second, each bounded; ends with its token, between two steps. The primary is
//! used again only after the journal was read: from then on every key has the right truth, so
//! that reads and writes need not wait for the replay.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use object_store::{ObjectStoreExt as _, Result};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::copy::before;
use super::home::Home;
use super::journal::Entry;
use super::key;
use super::side::Which;
use crate::registry::now_ms;
use crate::storage::Storage;

const STEP: Duration = Duration::from_millis(500);
/// Keys that are replayed between two looks at the stores.
const KEYS_PER_ROUND: usize = 256;
const KEYS_IN_FLIGHT_MAX: usize = 8;
const LEASE: &str = "replay";
/// Probes at the start, as many as open a breaker.
const LOOKS: u32 = 3;

impl Home {
    /// Runs until `ended`.
    pub(super) async fn tend(self: Arc<Self>, ended: CancellationToken) {
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refreshed = Instant::now();
        let tend = async {
            loop {
                tokio::select! {
                    _ = steps.tick() => {}
                    () = self.changed.notified() => {}
                }
                self.step(&mut refreshed).await;
            }
        };
        ended.run_until_cancelled(Box::pin(tend)).await;
    }

    /// One look at everything.
    pub(super) async fn step(&self, refreshed: &mut Instant) {
        for which in [Which::Primary, Which::Replica] {
            if self.side(which).probe_due() {
                self.probe(which).await;
            }
            self.probe_redirect(which).await;
        }
        let due = !self.note_state().is_primary() || !self.journal.is_known();
        if self.replica.is_up() && (due || refreshed.elapsed() >= self.timing.refresh) {
            *refreshed = Instant::now();
            if let Err(error) = self.read_journal().await {
                tracing::debug!(region = self.name, %error, "journal cannot be read");
            }
            self.read_marks().await;
        }
        if self.primary.is_up() && self.replica.is_up() && self.journal.pending() > 0 {
            if let Err(error) = self.replay_round().await {
                tracing::warn!(region = self.name, %error, "catching up is interrupted");
            }
            self.note_state();
        }
    }

    /// Before anything is served: a store that is away is known to be when this returns.
    pub(super) async fn look(&self) {
        tokio::join!(self.look_at(Which::Primary), self.look_at(Which::Replica));
        self.step(&mut Instant::now()).await;
    }

    async fn look_at(&self, which: Which) {
        for _ in 0..LOOKS {
            if self.probe(which).await || !self.side(which).is_up() {
                break;
            }
        }
    }

    /// Whether the store answered.
    async fn probe(&self, which: Which) -> bool {
        let side = self.side(which);
        let mut outcome = side.probe(self.timing.record).await;
        if which == Which::Primary && outcome.is_ok() {
            if self.capabilities.get().is_none() {
                outcome = self.find_capabilities().await;
            }
            // What was written without it must be known before it is used. Where the replica is
            // away too, its part of the truth cannot be had, and the rest is better than nothing.
            if !side.is_up() && self.replica.is_up() && self.read_journal().await.is_err() {
                return true;
            }
        }
        side.probed(outcome.is_ok());
        outcome.is_ok()
    }

    async fn find_capabilities(&self) -> Result<()> {
        let key = Arc::new(longshore_proto::sign::SigningKey::generate().0);
        let storage = Storage::new(self.primary.store.clone(), key);
        let found = tokio::time::timeout(self.timing.record, storage.find_capabilities()).await;
        let Ok(Ok(capabilities)) = found else { return Err(super::side::late()) };
        tracing::info!(region = self.name, ?capabilities, "primary store is open");
        let _first_wins = self.capabilities.set(capabilities);
        Ok(())
    }

    /// Brings some keys to the primary, in the order in which they were written, what others name
    /// first; then their entries go.
    pub(super) async fn replay_round(&self) -> Result<()> {
        let unknown_before = before(now_ms(), self.timing.unknown);
        let mut ready = self.journal.replayable(unknown_before, KEYS_PER_ROUND);
        if ready.is_empty() || !self.hold(LEASE).await? {
            return Ok(());
        }
        ready.sort_by_key(|(key, _)| key::rank(key));
        for rank in ready.chunk_by(|(a, _), (b, _)| key::rank(a) == key::rank(b)) {
            let replays: Vec<_> =
                rank.iter().map(|(key, entries)| self.replay_key(key, entries)).collect();
            let mut replays = stream::iter(replays).buffer_unordered(KEYS_IN_FLIGHT_MAX);
            while let Some(replayed) = replays.next().await {
                replayed?;
            }
        }
        if self.journal.pending() == 0 {
            self.release(LEASE).await;
        }
        Ok(())
    }

    async fn replay_key(&self, key: &object_store::path::Path, entries: &[Entry]) -> Result<()> {
        self.replay(key, entries).await?;
        for entry in entries {
            let side = &self.replica;
            let delete = async { super::side::present(side.control.delete(&entry.location).await) };
            side.call(self.timing.record, delete).await?;
            self.journal.remove(&entry.location);
            self.metrics.replayed_writes.inc();
        }
        Ok(())
    }
}
