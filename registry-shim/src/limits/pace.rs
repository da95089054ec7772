//! How many bytes of layers one client moves per second through this process, pulls and pushes
//! together. Who has had its share waits for its next bytes; nobody is refused.
//!
//! Only where it is configured. What a redirect sends elsewhere is the store's to bound. A client's
//! streams share one schedule, which is kept until its debt is over: many small blobs one after the
//! other are no way around it. Time is an argument where it is decided.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::client::Clients;
use crate::auth::Actor;
use crate::config::limits::Limits;

/// What leaves at once: so that no wait is long at the least rate that can be configured.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;
/// What nobody used counts for so long.
const BURST: Duration = Duration::from_secs(1);
/// Nobody waits longer for a piece, however many streams a client has: a connection that stands
/// still for a minute is cut.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Clients that are told apart: beyond, newcomers share one.
const CLIENTS_MAX: usize = 65_536;
/// Schedules that are kept without looking which are over.
const TIDY_MIN: usize = 1024;
/// Whom newcomers are while the table is full.
const OVERFLOW: u64 = 0;

/// The schedules of all clients.
#[derive(Debug)]
pub(crate) struct Pacer {
    bytes_per_s: NonZeroU64,
    clients: Clients,
    table: Mutex<Table>,
    pauses: Counter,
}

#[derive(Debug)]
struct Table {
    schedules: HashMap<u64, Arc<Mutex<Schedule>>>,
    tidy_at: usize,
}

/// When a client's next bytes may move.
#[derive(Debug)]
struct Schedule {
    bytes_per_s: NonZeroU64,
    /// Everything that moved is paid for by then.
    clear_at: Instant,
}

/// One body's part of its client's share.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    schedule: Arc<Mutex<Schedule>>,
    pauses: Counter,
}

impl Pacer {
    /// `None` where no limit is configured. `pauses` counts.
    pub(crate) fn new(limits: &Limits, pauses: Counter) -> Option<Self> {
        Some(Self {
            bytes_per_s: NonZeroU64::new(limits.client_bytes_per_s)?,
            clients: Clients::new(limits.throttle_nodes),
            table: Mutex::new(Table { schedules: HashMap::new(), tidy_at: TIDY_MIN }),
            pauses,
        })
    }

    /// For one body of this client; `None`: it is exempt.
    pub(crate) fn of(&self, actor: Option<&Actor>, address: IpAddr) -> Option<Pace> {
        let client = self.clients.number(actor, address)?;
        let schedule = lock(&self.table).schedule(client, self.bytes_per_s, Instant::now());
        Some(Pace { schedule, pauses: self.pauses.clone() })
    }
}

impl Table {
    fn schedule(
        &mut self,
        client: u64,
        bytes_per_s: NonZeroU64,
        now: Instant,
    ) -> Arc<Mutex<Schedule>> {
        if let Some(known) = self.schedules.get(&client) {
            return known.clone();
        }
        if self.schedules.len() >= self.tidy_at {
            let in_use = |schedule: &Arc<Mutex<Schedule>>| Arc::strong_count(schedule) > 1;
            self.schedules.retain(|_, schedule| in_use(schedule) || lock(schedule).matters(now));
            self.tidy_at = (self.schedules.len() * 2).max(TIDY_MIN);
        }
        let full = self.schedules.len() >= CLIENTS_MAX;
        let client = if full { OVERFLOW } else { client };
        let new = || Arc::new(Mutex::new(Schedule { bytes_per_s, clear_at: now }));
        self.schedules.entry(client).or_insert_with(new).clone()
    }
}

impl Schedule {
    /// Bytes have moved.
    fn moved(&mut self, bytes: usize, now: Instant) {
        let paid_from = now.checked_sub(BURST).map_or(self.clear_at, |at| self.clear_at.max(at));
        let seconds = bytes as f64 / self.bytes_per_s.get() as f64;
        self.clear_at = paid_from + Duration::from_secs_f64(seconds);
    }

    /// How long the next ones wait.
    fn wait(&self, now: Instant) -> Duration {
        self.clear_at.saturating_duration_since(now).min(WAIT_MAX)
    }

    /// Whether it differs from a new one.
    fn matters(&self, now: Instant) -> bool {
        self.clear_at > now
    }
}

impl Pace {
    /// Bytes have moved.
    pub(crate) fn moved(&self, bytes: usize) {
        lock(&self.schedule).moved(bytes, Instant::now());
    }

    /// When the next ones may; `None`: now.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let wait = lock(&self.schedule).wait(now);
        (!wait.is_zero()).then(|| {
            self.pauses.inc();
            now + wait
        })
    }

    /// Waits until the next ones may.
    pub(crate) async fn ready(&self) {
        if let Some(at) = self.next_at() {
            tokio::time::sleep_until(at).await;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;
    const MB: usize = 1_000_000;

    fn pacer(nodes: bool) -> Pacer {
        let limits =
            Limits { client_bytes_per_s: RATE, throttle_nodes: nodes, ..Limits::default() };
        Pacer::new(&limits, Counter::default()).unwrap()
    }

    fn ip(last: u32) -> IpAddr {
        IpAddr::V4(last.into())
    }

    /// How long a client takes for so many pieces.
    async fn time_for(pace: &Pace, pieces: usize) -> Duration {
        let began = Instant::now();
        for _ in 0..pieces {
            pace.ready().await;
            pace.moved(MB / 10);
        }
        pace.ready().await;
        began.elapsed()
    }

    fn near(is: Duration, seconds: f64) {
        assert!((is.as_secs_f64() - seconds).abs() < 0.02, "{is:?} and not {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_moves_at_its_rate_and_what_it_saved_in_a_second() {
        let pacer = pacer(false);
        let pace = pacer.of(None, ip(1)).unwrap();
        near(time_for(&pace, 100).await, 10.0);
        assert!(pacer.pauses.get() >= 99);
        tokio::time::advance(Duration::from_secs(60)).await;
        near(time_for(&pace, 100).await, 9.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clients_streams_share_and_clients_do_not() {
        let pacer = pacer(false);
        let paces = [1, 1, 2].map(|client| pacer.of(None, ip(client)).unwrap());
        let [one, two, other] = paces.each_ref().map(|pace| time_for(pace, 30));
        let (one, two, other) = tokio::join!(one, two, other);
        near(one.max(two), 6.0);
        near(other, 3.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_outlives_the_body_that_made_it() {
        let pacer = pacer(false);
        for _ in 0..10 {
            let pace = pacer.of(None, ip(1)).unwrap();
            pace.ready().await;
            pace.moved(MB);
        }
        let began = Instant::now();
        pacer.of(None, ip(1)).unwrap().ready().await;
        near(began.elapsed(), 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_until_its_connection_is_cut() {
        let pace = pacer(false).of(None, ip(1)).unwrap();
        pace.moved(1000 * MB);
        near(Duration::from_secs_f64(pace.next_at().unwrap().elapsed().as_secs_f64()), 0.0);
        let began = Instant::now();
        pace.ready().await;
        near(began.elapsed(), 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_are_exempt_unless_they_count_as_clients() {
        let session = crate::auth::NodeSession {
            peer_id: "p".into(),
            pool: "default".into(),
            zone: "a".into(),
            expires_at_s: 0,
        };
        let node = Actor::Node(Arc::new(session));
        assert!(pacer(false).of(Some(&node), ip(1)).is_none());
        assert!(pacer(true).of(Some(&node), ip(1)).is_some());
        assert!(Pacer::new(&Limits::default(), Counter::default()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_clients_do_not_make_many_schedules() {
        let pacer = pacer(false);
        let count = || lock(&pacer.table).schedules.len();
        for client in 0..10_000 {
            pacer.of(None, ip(client)).unwrap().moved(MB / 100);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(count() <= 2 * TIDY_MIN, "{}", count());
        let streams: Vec<Pace> =
            (0..CLIENTS_MAX as u32 + 10_000).map(|at| pacer.of(None, ip(at)).unwrap()).collect();
        assert!(count() <= CLIENTS_MAX + 1, "{}", count());
        drop(streams);
    }
}
