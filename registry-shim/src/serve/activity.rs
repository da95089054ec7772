//! What a connection does, and who judges it.
//!
//! A connection's task leaves marks (atomics, no clock, no timer); the listener's one [`Watch`] reads
//! them a few times per deadline and orders a connection that asks nothing, rests or stands still to
//! end. Deadlines are therefore late by up to one look, and a request costs no look at the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::{Limits, ServeMetrics};

/// Looks per shortest deadline.
const LOOKS: u32 = 5;
/// However long the deadlines are.
const LOOK_PERIOD_MAX: Duration = Duration::from_secs(1);
/// A deadline's parts in which waiting bodies are counted.
const PARTS: u8 = 8;
/// Twice as many, so that a count is empty again before it is used again.
const COUNTS: usize = 2 * PARTS as usize;
/// For a connection that was asked to end because it rested.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a connection is told; a later one outranks an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Nothing.
    Go,
    /// End after the requests under way.
    Drain,
    /// End.
    Cut,
}

/// The marks of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// A byte moved, in either direction, since the last look.
    moved: AtomicBool,
    /// Written by the connection's own task alone.
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// Bodies that wait until their client takes more, by the part of time in which it last did.
    waiting: [AtomicU32; COUNTS],
    /// The part of time that it is.
    part: AtomicU8,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// All connections of a listener, as its own task knows them.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Limits,
    metrics: ServeMetrics,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    activity: Arc<Activity>,
    started: Instant,
    moved: Instant,
    rested: Instant,
    requests: u64,
    /// Asked to end because it rested.
    goodbye: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Nobody asks anything: end it politely.
    Resting,
    /// Nothing moves, nothing was ever asked, or a body is not taken.
    Stuck,
}

impl Activity {
    /// Bytes came or went.
    pub(super) fn moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// A request's head came.
    pub(super) fn began(&self) {
        // One writer: no need for a locked addition.
        self.requests.store(self.requests.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A request's answer has gone, or nobody wants it.
    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A body gave a frame and now waits for its client; `before` is what this said the last time.
    pub(super) fn waits(&self, before: Option<u8>) -> u8 {
        let part = self.part.load(Ordering::Relaxed);
        if before != Some(part) {
            self.waiting[usize::from(part)].fetch_add(1, Ordering::Relaxed);
            self.waits_no_more(before);
        }
        part
    }

    /// The body ended, or waits for its source.
    pub(super) fn waits_no_more(&self, before: Option<u8>) {
        if let Some(part) = before {
            self.waiting[usize::from(part)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What was ordered; a later order wakes `cx`. `known` is for this call alone, empty at first.
    pub(super) fn order(&self, cx: &Context<'_>, known: &mut Option<(Waker, Order)>) -> Order {
        let ordered = self.ordered();
        // An order takes the waker away.
        let registered = known
            .as_ref()
            .is_some_and(|(waker, order)| *order == ordered && waker.will_wake(cx.waker()));
        if registered {
            return ordered;
        }
        self.waker.register(cx.waker());
        *known = Some((cx.waker().clone(), ordered));
        self.ordered()
    }

    fn ordered(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Go,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    fn give(&self, order: Order) {
        if self.order.fetch_max(order as u8, Ordering::AcqRel) < order as u8 {
            self.waker.wake();
        }
    }

    /// Whether a body has waited for its client through a whole deadline.
    fn is_starved(&self) -> bool {
        let now = usize::from(self.part.load(Ordering::Relaxed));
        let old = usize::from(PARTS) + 1..COUNTS;
        old.into_iter()
            .any(|age| self.waiting[(now + COUNTS - age) % COUNTS].load(Ordering::Relaxed) > 0)
    }
}

impl Watch {
    pub(super) const fn new(limits: Limits, metrics: ServeMetrics) -> Self {
        Self { limits, metrics, watched: Vec::new() }
    }

    /// How often to look.
    pub(super) fn period(&self) -> Duration {
        let limits = &self.limits;
        let shortest =
            limits.first_request_timeout.min(limits.idle_timeout).min(limits.stall_timeout);
        (shortest / LOOKS).clamp(Duration::from_millis(1), LOOK_PERIOD_MAX)
    }

    /// A connection that starts now.
    pub(super) fn begin(&mut self) -> Arc<Activity> {
        let (activity, now) = (Arc::new(Activity::default()), Instant::now());
        self.watched.push(Watched {
            activity: activity.clone(),
            started: now,
            moved: now,
            rested: now,
            requests: 0,
            goodbye: None,
        });
        activity
    }

    /// Judges all connections, and forgets those that have ended.
    pub(super) fn look(&mut self, now: Instant) {
        let Self { limits, metrics, watched } = self;
        // Only the task of a connection holds its activity beside this list.
        watched.retain(|each| Arc::strong_count(&each.activity) > 1);
        for each in watched {
            match each.look(now, limits) {
                Verdict::Fine => each.goodbye = None,
                Verdict::Resting => {
                    let asked = *each.goodbye.get_or_insert(now);
                    each.activity.give(Order::Drain);
                    if now.duration_since(asked) >= GOODBYE {
                        each.cut(metrics);
                    }
                }
                Verdict::Stuck => each.cut(metrics),
            }
        }
    }

    /// Tells all the same.
    pub(super) fn order(&self, order: Order) {
        for each in &self.watched {
            each.activity.give(order);
        }
    }
}

impl Watched {
    fn look(&mut self, now: Instant, limits: &Limits) -> Verdict {
        let marks = &self.activity;
        if marks.moved.swap(false, Ordering::Relaxed) {
            self.moved = now;
        }
        let in_flight = marks.in_flight.load(Ordering::Relaxed) > 0;
        let requests = marks.requests.load(Ordering::Relaxed);
        if in_flight || requests != self.requests {
            (self.rested, self.requests) = (now, requests);
        }
        let part = now.duration_since(self.started).as_nanos()
            / (limits.stall_timeout / u32::from(PARTS)).as_nanos().max(1);
        let part = u8::try_from(part % COUNTS as u128).expect("a remainder of sixteen");
        marks.part.store(part, Ordering::Relaxed);
        let late = |since, timeout| now.duration_since(since) >= timeout;
        if in_flight {
            let stuck = late(self.moved, limits.stall_timeout) || marks.is_starved();
            return if stuck { Verdict::Stuck } else { Verdict::Fine };
        }
        if requests == 0 {
            let silent = late(self.started, limits.first_request_timeout);
            return if silent { Verdict::Stuck } else { Verdict::Fine };
        }
        if late(self.rested, limits.idle_timeout) { Verdict::Resting } else { Verdict::Fine }
    }

    /// Counted once: the connection may be a moment away from noticing.
    fn cut(&self, metrics: &ServeMetrics) {
        if self.activity.ordered() != Order::Cut {
            metrics.timed_out.inc();
            self.activity.give(Order::Cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> (Watched, Arc<Activity>, Limits) {
        let mut watch = Watch::new(Limits::FRONT, ServeMetrics::default());
        let activity = watch.begin();
        (watch.watched.remove(0), activity, Limits::FRONT)
    }

    #[test]
    fn judges_a_connection_by_what_it_did() {
        let (mut watched, activity, limits) = watched();
        let mut now = watched.started;
        assert_eq!(watched.look(now, &limits), Verdict::Fine);
        assert_eq!(
            watched.look(now + limits.first_request_timeout, &limits),
            Verdict::Stuck,
            "it never asked anything"
        );
        activity.began();
        activity.moved();
        now += limits.stall_timeout;
        assert_eq!(watched.look(now, &limits), Verdict::Fine);
        now += limits.stall_timeout;
        assert_eq!(watched.look(now, &limits), Verdict::Stuck, "nothing moved during a request");
        activity.ended();
        assert_eq!(watched.look(now + limits.idle_timeout / 2, &limits), Verdict::Fine);
        assert_eq!(watched.look(now + limits.idle_timeout, &limits), Verdict::Resting);
    }

    #[test]
    fn a_request_between_two_looks_is_noticed() {
        let (mut watched, activity, limits) = watched();
        activity.began();
        activity.ended();
        let now = watched.started + limits.idle_timeout;
        assert_eq!(watched.look(now, &limits), Verdict::Fine);
        assert_eq!(watched.look(now + limits.idle_timeout, &limits), Verdict::Resting);
    }

    #[test]
    fn a_body_that_its_client_does_not_take_is_noticed_beside_others_that_move() {
        let (mut watched, activity, limits) = watched();
        let start = watched.started;
        activity.began();
        activity.began();
        let stuck = activity.waits(None);
        let (mut moving, mut verdicts) = (None, Vec::new());
        for look in 0..100 {
            activity.moved();
            verdicts.push(watched.look(start + Duration::from_secs(look), &limits));
            moving = Some(activity.waits(moving));
        }
        let first = verdicts.iter().position(|verdict| *verdict == Verdict::Stuck).unwrap();
        // A part of time more than the deadline, as the body may have come late in its part.
        assert!((60..=75).contains(&first), "{first}");
        activity.waits_no_more(Some(stuck));
        activity.moved();
        let now = start + Duration::from_secs(100);
        assert_eq!(watched.look(now, &limits), Verdict::Fine, "the other one moves");
    }

    #[test]
    fn ended_connections_are_forgotten() {
        let mut watch = Watch::new(Limits::FRONT, ServeMetrics::default());
        let (first, _second) = (watch.begin(), watch.begin());
        drop(first);
        watch.look(Instant::now());
        assert_eq!(watch.watched.len(), 1);
    }
}
