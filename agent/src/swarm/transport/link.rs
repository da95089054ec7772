//! One connection as those see it who send over it: its queues and its switch.
//!
//! Knows nothing of sockets. Queues are bounded and nothing here waits but the session that empties
//! them; a link that has been stopped takes nothing more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use longshore_proto::rpc::swarm::ControlMessage;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{BULK_QUEUE_MAX, CONTROL_QUEUE_MAX, DownReason, SendError};

/// Both ends of a link's queues; the session owns the other.
#[derive(Debug)]
pub(super) struct Link {
    control: mpsc::Sender<ControlMessage>,
    bulk: BulkQueue,
    pub(super) stop: Stop,
    /// Cancelled once the link's `Down` has been told.
    pub(super) gone: CancellationToken,
    /// When both sides had greeted each other.
    pub(super) since: Instant,
}

impl Link {
    pub(super) fn new(stop: Stop) -> (Arc<Self>, mpsc::Receiver<ControlMessage>) {
        let (control, queue) = mpsc::channel(CONTROL_QUEUE_MAX);
        let link = Self {
            control,
            bulk: BulkQueue::default(),
            stop,
            gone: CancellationToken::new(),
            since: Instant::now(),
        };
        (Arc::new(link), queue)
    }

    pub(super) fn send_control(&self, message: ControlMessage) -> Result<(), SendError> {
        self.control.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
        })
    }

    pub(super) fn bulk(&self) -> &BulkQueue {
        &self.bulk
    }
}

/// Payloads that wait to be written.
#[derive(Debug, Default)]
pub(super) struct BulkQueue {
    waiting: Mutex<VecDeque<(u64, Bytes)>>,
    added: Notify,
}

impl BulkQueue {
    pub(super) fn push(&self, id: u64, payload: Bytes) -> Result<(), SendError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= BULK_QUEUE_MAX {
            return Err(SendError::Full);
        }
        waiting.push_back((id, payload));
        self.added.notify_one();
        Ok(())
    }

    pub(super) fn cancel(&self, id: u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(queued, _)| *queued != id);
    }

    /// The next payload, from now on out of [`Self::cancel`]'s reach.
    pub(super) async fn next(&self) -> (u64, Bytes) {
        loop {
            let added = self.added.notified();
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(payload) => return payload,
                None => added.await,
            }
        }
    }
}

/// Ends a connection from anywhere; the first reason counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<DownReason>>,
}

impl Stop {
    pub(super) fn stop(&self, reason: DownReason) {
        // Whoever loses this race has nothing to add.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Waits until somebody stops it.
    pub(super) async fn stopped(&self) -> DownReason {
        self.token.cancelled().await;
        self.reason().unwrap_or(DownReason::Disconnected)
    }

    /// Whether whatever this stops still runs.
    pub(super) fn is_held_elsewhere(&self) -> bool {
        Arc::strong_count(&self.reason) > 1
    }

    pub(super) fn reason(&self) -> Option<DownReason> {
        self.reason.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_takes_its_bound_and_gives_in_order_what_was_not_cancelled() {
        let queue = BulkQueue::default();
        for id in 0..BULK_QUEUE_MAX as u64 {
            queue.push(id, Bytes::from(vec![1])).unwrap();
        }
        assert_eq!(queue.push(99, Bytes::new()), Err(SendError::Full));
        queue.cancel(1);
        assert_eq!(queue.next().await.0, 0);
        assert_eq!(queue.next().await.0, 2);
    }

    #[tokio::test]
    async fn the_first_reason_to_stop_counts() {
        let stop = Stop::default();
        stop.stop(DownReason::Stalled);
        stop.stop(DownReason::Replaced);
        assert_eq!(stop.stopped().await, DownReason::Stalled);
    }
}
