//! Waiting for a condition: the testkit's only way to let time pass.
//!
//! Each wait has a deadline and says at its end what it last saw.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::error::{LabError, Result};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Seen<T> {
    /// It holds.
    Yes(T),
    /// Not yet; told when the deadline passes.
    NotYet(String),
}

/// Looks until `look` says yes or `deadline` has passed; an error from `look` ends it at once.
pub async fn until<T, L, F>(what: &str, deadline: Duration, mut look: L) -> Result<T>
where
    L: FnMut() -> F,
    F: Future<Output = Result<Seen<T>>>,
{
    let end = Instant::now() + deadline;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(Seen::Yes(value))) => return Ok(value),
            Ok(Ok(Seen::NotYet(seen))) => last = seen,
            Ok(Err(failed)) => return Err(failed),
            Err(_) => {}
        }
        if Instant::now() >= end {
            let detail = if last.is_empty() { last } else { format!("; last seen: {last}") };
            return Err(LabError::Deadline { what: what.to_owned(), deadline, detail });
        }
    }
}

/// Ends `future` at `deadline` with an error that names it.
pub async fn within<F: Future>(what: &str, deadline: Duration, future: F) -> Result<F::Output> {
    tokio::time::timeout(deadline, future).await.map_err(|_| LabError::Deadline {
        what: what.to_owned(),
        deadline,
        detail: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_never_holds_ends_with_what_was_last_seen() {
        let outcome: Result<()> = until("a thing", Duration::from_secs(1), async || {
            Ok(Seen::NotYet("3 of 4".to_owned()))
        })
        .await;
        let message = outcome.expect_err("never true").to_string();
        assert!(message.contains("a thing") && message.contains("3 of 4"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_does_not_outlive_the_deadline() {
        let outcome: Result<()> =
            until("a thing", Duration::from_secs(1), std::future::pending).await;
        assert!(matches!(outcome, Err(LabError::Deadline { .. })));
    }
}
