//! The loop: closed (each connection asks again once it is answered) or open (requests are due at
//! a steady rate, and their time counts from when they were due).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use rustix::thread::Timespec;
use serde::Deserialize;

use super::connection::{Answer, Connection};
use super::script::{Kind, Script};

/// Longest latency that is told apart: 60 s, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;
/// An open loop sends what is due this often. Sooner, the generator would take the registry's core
/// for waiting; requests count from when they were due all the same.
const TICK: Duration = Duration::from_micros(500);
/// For the answers that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
const EVENTS_MAX: usize = 1024;

/// When requests go out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as the last one is answered.
    Closed,
    /// At this rate, whatever the answers do.
    Open {
        /// Requests.
        per_second: f64,
    },
}

/// One run of the generator.
#[derive(Debug, Clone)]
pub struct Load<'a> {
    /// The registry.
    pub address: SocketAddr,
    /// Kept alive, all from the start.
    pub connections: usize,
    /// What each asks.
    pub script: &'a Script,
    /// When.
    pub pace: Pace,
    /// How long requests are sent.
    pub duration: Duration,
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Right answers, by [`Kind::index`].
    pub answers: [u64; 4],
    /// Wrong statuses, broken connections, answers that never came.
    pub errors: u64,
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Microseconds from when a request was due.
    pub latency: Histogram<u64>,
}

impl Outcome {
    /// Right answers of all kinds.
    pub fn total(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// Right answers of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.answers[kind.index()]
    }

    /// Right answers a second.
    pub fn per_second(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64()
    }

    /// Milliseconds within which this share of the requests was answered.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Runs the load on the calling thread.
///
/// # Errors
/// When the machine refuses sockets; what the registry does wrong is in the outcome.
pub fn run(load: &Load<'_>) -> io::Result<Outcome> {
    let mut generator = Generator::new(load)?;
    generator.warm_up()?;
    generator.measure()?;
    Ok(generator.outcome)
}

struct Generator<'a> {
    load: &'a Load<'a>,
    poll: Poll,
    clients: Vec<Client>,
    /// Clients without a request under way.
    free: Vec<usize>,
    /// Requests that are due and found no free client.
    waiting: VecDeque<Instant>,
    request: Vec<u8>,
    outcome: Outcome,
}

struct Client {
    connection: Connection,
    token: Vec<u8>,
    step: usize,
    due: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
}

impl<'a> Generator<'a> {
    fn new(load: &'a Load<'a>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            let connection = connect(&poll, load.address, number)?;
            clients.push(Client { connection, token: Vec::new(), step: 0, due: None });
        }
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).map_err(io::Error::other)?;
        let (answers, elapsed) = ([0; 4], Duration::ZERO);
        let outcome = Outcome { answers, errors: 0, first_error: None, elapsed, latency };
        let (free, waiting) = (Vec::new(), VecDeque::new());
        Ok(Self { load, poll, clients, free, waiting, request: Vec::new(), outcome })
    }

    /// Every client gets its first token and then stands at another place of the script, so that
    /// all kinds of requests are under way at any time.
    fn warm_up(&mut self) -> io::Result<()> {
        let (steps, clients) = (self.load.script.steps.len(), self.clients.len());
        if self.load.script.needs_token() {
            let now = Instant::now();
            for number in 0..clients {
                self.send(number, now);
            }
            let deadline = now + LAST_ANSWERS;
            while self.free.len() < clients && Instant::now() < deadline {
                self.turn(deadline)?;
            }
        } else {
            self.free = (0..clients).collect();
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.step = 1.min(steps - 1) + number * (steps - 1) / clients;
        }
        self.outcome.answers = [0; 4];
        self.outcome.latency.reset();
        Ok(())
    }

    fn measure(&mut self) -> io::Result<()> {
        let start = Instant::now();
        let end = start + self.load.duration;
        match self.load.pace {
            Pace::Closed => {
                while Instant::now() < end {
                    while let Some(number) = self.free.pop() {
                        self.send(number, Instant::now());
                    }
                    self.turn(end)?;
                }
            }
            Pace::Open { per_second } => {
                let apart = Duration::from_secs_f64(1.0 / per_second);
                let mut due = start;
                while due < end {
                    let now = Instant::now();
                    while due <= now && due < end {
                        self.waiting.push_back(due);
                        due += apart;
                    }
                    self.send_waiting();
                    rest(TICK.saturating_sub(now.elapsed()));
                    self.turn(Instant::now())?;
                }
            }
        }
        let deadline = Instant::now() + LAST_ANSWERS;
        while (self.free.len() < self.clients.len() || !self.waiting.is_empty())
            && Instant::now() < deadline
        {
            self.send_waiting();
            self.turn(deadline)?;
        }
        self.outcome.elapsed = start.elapsed();
        let unanswered = self.clients.len() - self.free.len() + self.waiting.len();
        for _ in 0..unanswered {
            self.failed("no answer in time".to_owned());
        }
        Ok(())
    }

    fn send_waiting(&mut self) {
        while let (Some(&number), false) = (self.free.last(), self.waiting.is_empty()) {
            self.free.pop();
            let due = self.waiting.pop_front().expect("it is not empty");
            self.send(number, due);
        }
    }

    fn send(&mut self, number: usize, due: Instant) {
        let client = &mut self.clients[number];
        self.load.script.steps[client.step].write(&client.token, &mut self.request);
        client.due = Some(due);
        if let Err(error) = client.connection.send(&self.request) {
            self.broken(number, &error);
        }
    }

    /// Waits until something happens or `until`, and takes the answers that have come.
    fn turn(&mut self, until: Instant) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let timeout = until.saturating_duration_since(Instant::now());
        match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &events {
            let Token(number) = event.token();
            let client = &mut self.clients[number];
            if event.is_writable()
                && let Err(error) = client.connection.flush()
            {
                self.broken(number, &error);
                continue;
            }
            if event.is_readable() {
                self.take(number);
            }
        }
        Ok(())
    }

    fn take(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(due) = client.due else { return };
        let step = &self.load.script.steps[client.step];
        match client.connection.receive(step.is_head, step.kind == Kind::Token) {
            Ok(None) => {}
            Ok(Some(answer)) => self.answered(number, due, &answer),
            Err(error) => self.broken(number, &error),
        }
    }

    fn answered(&mut self, number: usize, due: Instant, answer: &Answer) {
        let client = &mut self.clients[number];
        let step = &self.load.script.steps[client.step];
        client.step = (client.step + 1) % self.load.script.steps.len();
        client.due = None;
        self.free.push(number);
        if answer.status != step.status {
            let (got, kind) = (answer.status, step.kind.name());
            return self.failed(format!("{kind}: status {got} and not {}", step.status));
        }
        if step.kind == Kind::Token {
            match serde_json::from_slice::<TokenAnswer>(&answer.body) {
                Ok(answer) => client.token = answer.token.into_bytes(),
                Err(error) => return self.failed(format!("token: {error}")),
            }
        }
        self.outcome.answers[step.kind.index()] += 1;
        let waited = u64::try_from(due.elapsed().as_micros()).unwrap_or(LATENCY_MAX_US);
        self.outcome.latency.saturating_record(waited);
    }

    fn broken(&mut self, number: usize, error: &io::Error) {
        if self.clients[number].due.take().is_none() {
            return;
        }
        self.failed(format!("connection broke: {error}"));
        match connect(&self.poll, self.load.address, number) {
            Ok(connection) => {
                self.clients[number].connection = connection;
                self.free.push(number);
            }
            Err(error) => self.failed(format!("cannot connect again: {error}")),
        }
    }

    fn failed(&mut self, what: String) {
        self.outcome.errors += 1;
        self.outcome.first_error.get_or_insert(what);
    }
}

/// `epoll` counts in milliseconds: too coarse.
fn rest(time: Duration) {
    let nanoseconds = time.subsec_nanos().into();
    let _ = rustix::thread::nanosleep(&Timespec { tv_sec: 0, tv_nsec: nanoseconds });
}

fn connect(poll: &Poll, address: SocketAddr, number: usize) -> io::Result<Connection> {
    let mut connection = Connection::open(address)?;
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut connection.stream, Token(number), both)?;
    Ok(connection)
}
