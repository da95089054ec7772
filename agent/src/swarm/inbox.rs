//! What the pull side says to the driver, kept until the driver looks.
//!
//! Later words about the same blob or client replace earlier ones, so that the inbox is never
//! larger than what there is to say; hints beyond a bound are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::{Digest, Reference, RepositoryName};
use tokio::sync::{Notify, oneshot};

use crate::pull::fetcher::Want;

/// Peers and permits, each, that wait; more are dropped, they are hints.
const HINTS_MAX: usize = 4096;
/// Questions for plans that wait; more are answered with nothing.
const PLAN_ASKS_MAX: usize = 64;

/// The pull side's words.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    letters: Mutex<Letters>,
    came: Notify,
}

/// All that was said since the driver last looked.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// A want, or that it is over.
    pub(super) wants: BTreeMap<Digest, Option<Want>>,
    pub(super) cursors: BTreeMap<(Digest, u64), Option<PieceIndex>>,
    pub(super) peers: VecDeque<rpc::Peer>,
    pub(super) permits: VecDeque<rpc::PiecePermit>,
    pub(super) plans: Vec<PlanQuestion>,
}

/// Somebody wants to know a plan.
#[derive(Debug)]
pub(super) struct PlanQuestion {
    pub(super) repository: RepositoryName,
    pub(super) reference: Reference,
    pub(super) answer: oneshot::Sender<Bytes>,
}

impl Inbox {
    pub(super) fn write(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.locked());
        self.came.notify_one();
    }

    /// Waits for something to read. Dropping the future loses nothing.
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }

    pub(super) fn take(&self) -> Letters {
        std::mem::take(&mut self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().expect("nothing panics while it holds the letters")
    }
}

impl Letters {
    pub(super) fn meet(&mut self, peers: Vec<rpc::Peer>) {
        let room = HINTS_MAX.saturating_sub(self.peers.len());
        self.peers.extend(peers.into_iter().take(room));
    }

    pub(super) fn use_permits(&mut self, permits: Vec<rpc::PiecePermit>) {
        let room = HINTS_MAX.saturating_sub(self.permits.len());
        self.permits.extend(permits.into_iter().take(room));
    }

    pub(super) fn ask_plan(&mut self, question: PlanQuestion) {
        if self.plans.len() < PLAN_ASKS_MAX {
            self.plans.push(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_proto::Algorithm;

    #[tokio::test]
    async fn later_words_replace_earlier_ones() {
        let inbox = Inbox::default();
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for piece in 0..5 {
            inbox.write(|letters| {
                letters.cursors.insert((digest, 1), Some(PieceIndex(piece)));
            });
        }
        inbox.came().await;
        let letters = inbox.take();
        assert_eq!(letters.cursors.into_values().collect::<Vec<_>>(), [Some(PieceIndex(4))]);
        assert!(inbox.take().cursors.is_empty());
    }
}
