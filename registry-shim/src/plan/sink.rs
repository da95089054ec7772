//! Where the events of one item go: a bounded channel that others share.

use std::pin::pin;
use std::time::Duration;

use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::plan_event::Event;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::Stop;

/// A client that takes no event for this long has gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two signs of life while a blob is read for its hash states. Agents give a stream up that
/// says nothing for 10 s.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Sends one item's events.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    item: u32,
    events: Sender<Result<rpc::PlanEvent, Status>>,
}

impl Sink {
    /// Events carry `item`.
    pub(super) const fn new(item: u32, events: Sender<Result<rpc::PlanEvent, Status>>) -> Self {
        Self { item, events }
    }

    /// Waits for room.
    pub(super) async fn send(&self, event: Event) -> Result<(), Stop> {
        self.send_any(Some(event)).await
    }

    /// Ends when `work` does, and sends events that say nothing until then.
    pub(super) async fn while_waiting<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        loop {
            match tokio::time::timeout(SIGN_OF_LIFE, work.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) => self.send_any(None).await?,
            }
        }
    }

    async fn send_any(&self, event: Option<Event>) -> Result<(), Stop> {
        let event = rpc::PlanEvent { item: self.item, event };
        self.events.send_timeout(Ok(event), SEND_TIMEOUT).await.map_err(|_| Stop::HungUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_work_shows_signs_of_life() {
        let (events, mut received) = tokio::sync::mpsc::channel(16);
        let sink = Sink::new(7, events);
        sink.while_waiting(tokio::time::sleep(3 * SIGN_OF_LIFE + SIGN_OF_LIFE / 2)).await.unwrap();
        drop(sink);
        let mut signs = 0;
        while let Some(event) = received.recv().await {
            assert_eq!(event.unwrap(), rpc::PlanEvent { item: 7, event: None });
            signs += 1;
        }
        assert_eq!(signs, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_gone() {
        let (events, received) = tokio::sync::mpsc::channel(1);
        let sink = Sink::new(0, events);
        sink.send(Event::Finished(rpc::Finished {})).await.unwrap();
        let late = sink.send(Event::Finished(rpc::Finished {})).await;
        assert!(matches!(late, Err(Stop::HungUp)));
        drop(received);
    }
}
