//! The driver: joins the engine to the network, the store and the origin.
//!
//! Owns one task, which never waits for anything but news: whatever takes time is a job that it
//! owns, and answers by a queue. It decides nothing that the engine decides, and what it stores
//! has been verified by the store. It ends with its token: it tells the tracker, ends its jobs
//! and joins them.

mod announce;
mod ask;
mod jobs;
mod serve;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::libp2p::PeerId;
use longshore_proto::Digest;
use longshore_proto::piece::PieceIndex;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::swarm as wire;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::control_message::Message;

use self::announce::Announcer;
use self::jobs::Done;
use self::serve::Serving;
pub(super) use self::serve::TestFaults;
use super::book::Book;
use super::engine::{Engine, Input, Leave, Output, ReadId, RequestId, WantBlob};
use super::inbox::{Inbox, Letters};
use super::metrics::SwarmMetrics;
use super::transport::{Transport, TransportEvent};
use super::{Standing, SwarmConfig};
use crate::origin::Origin;
use crate::pull::fetcher::Want;
use crate::store::{BlobFailure, PieceStore};

/// Answers of jobs that wait for the driver; a job that finds no room waits.
const DONE_MAX: usize = 256;
/// Cancelled requests whose payload may still come.
const CANCELLED_MAX: usize = 256;
/// Permits for blobs that are not wanted yet.
const EARLY_MAX: usize = 1024;
/// The farewell to the tracker.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A blob that is being fetched.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) want: Want,
    /// Peers that brought something.
    delivered: Mutex<BTreeSet<PeerId>>,
    /// What the origin or the disk last said against it.
    refusal: Mutex<Option<BlobFailure>>,
}

/// A request to a peer.
#[derive(Debug)]
struct Asked {
    peer: PeerId,
    digest: Digest,
    piece: PieceIndex,
}

/// What a driver is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) config: SwarmConfig,
    pub(super) engine: Engine,
    pub(super) own: PeerId,
    /// None: the swarm is off.
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) store: PieceStore,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) metrics: SwarmMetrics,
    pub(super) inbox: Arc<Inbox>,
    pub(super) standing: Arc<Mutex<Standing>>,
    pub(super) faults: TestFaults,
}

/// What jobs have to say, on its way to the driver.
#[derive(Debug)]
pub(super) struct Answers(mpsc::Receiver<Done>);

/// One node's driver.
#[derive(Debug)]
pub(super) struct Driver {
    config: SwarmConfig,
    engine: Engine,
    began: Instant,
    transport: Option<Arc<dyn Transport>>,
    store: PieceStore,
    origin: Arc<dyn Origin>,
    metrics: SwarmMetrics,
    inbox: Arc<Inbox>,
    standing: Arc<Mutex<Standing>>,
    wanted: BTreeMap<Digest, Arc<Wanted>>,
    asked: BTreeMap<RequestId, Asked>,
    cancelled: VecDeque<(RequestId, PeerId)>,
    reads: BTreeMap<ReadId, CancellationToken>,
    early: VecDeque<(Instant, Leave)>,
    plans: BTreeMap<RequestId, ask::PlanAsked>,
    next_plan: u64,
    serving: Serving,
    book: Book,
    announcer: Announcer,
    jobs: JoinSet<()>,
    done: mpsc::Sender<Done>,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> (Self, Answers) {
        let (done, answers) = mpsc::channel(DONE_MAX);
        let Parts { config, engine, own, transport, store, .. } = parts;
        let driver = Self {
            config,
            engine,
            began: Instant::now(),
            transport,
            store,
            origin: parts.origin,
            metrics: parts.metrics,
            inbox: parts.inbox,
            standing: parts.standing,
            wanted: BTreeMap::new(),
            asked: BTreeMap::new(),
            cancelled: VecDeque::new(),
            reads: BTreeMap::new(),
            early: VecDeque::new(),
            plans: BTreeMap::new(),
            next_plan: 0,
            serving: Serving::new(parts.faults),
            book: Book::new(own),
            announcer: Announcer::new(),
            jobs: JoinSet::new(),
            done,
        };
        (driver, Answers(answers))
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<TransportEvent>,
        mut answers: Answers,
        shutdown: CancellationToken,
    ) {
        let inbox = Arc::clone(&self.inbox);
        loop {
            let tick = self.began + self.engine.tick_at();
            let announce = self.announcer.due().filter(|_| self.transport.is_some());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = inbox.came() => self.read_letters(inbox.take()),
                Some(event) = events.recv() => self.on_event(event),
                Some(done) = answers.0.recv() => self.on_done(done),
                Some(ended) = self.jobs.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a job of the swarm ended early");
                    }
                }
                () = tokio::time::sleep_until(tick) => self.feed(Input::Tick),
                () = until(announce) => self.announce(),
            }
        }
        self.end().await;
    }

    async fn end(mut self) {
        self.reads.values().for_each(CancellationToken::cancel);
        if self.transport.is_some() {
            let farewell = self.origin.announce(self.announcer.leaving());
            match tokio::time::timeout(LEAVE_TIMEOUT, farewell).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "left without a farewell"),
                Err(_) => tracing::debug!("left without a farewell"),
            }
        }
        self.jobs.shutdown().await;
    }

    /// Gives an input to the engine and does what it says, and what follows from that.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let mut out = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.engine.handle(self.began.elapsed(), input, &mut out);
            for output in out.drain(..) {
                self.perform(output, &mut inputs);
            }
        }
    }

    fn perform(&mut self, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Request { peer, request, digest, piece } => {
                self.ask_piece(peer, request, digest, piece);
            }
            Output::Cancel { peer, request, stalled, .. } => self.cancel(peer, request, stalled),
            Output::AskPermits(ask) => self.ask_permits(&ask),
            Output::Read { read, digest, first, pieces, why, permit } => {
                let permit = permit.map(|permit| (*permit).clone());
                self.read(read, digest, (first, pieces), why, permit, inputs);
            }
            Output::CancelRead(read) => {
                if let Some(cancel) = self.reads.remove(&read) {
                    cancel.cancel();
                }
            }
            Output::TellHave { peers, digest, runs } => self.tell_have(&peers, &digest, runs),
            Output::TellWant { peers, digests } => self.tell_want(&peers, &digests),
            Output::Dial(peer) => match &self.transport {
                Some(transport) => transport.dial(peer, self.book.addresses(&peer)),
                None => inputs.push_back(Input::DialFailed(peer)),
            },
            Output::Drop { peer, why } => {
                tracing::info!(%peer, ?why, "dropping a peer");
                self.disconnect(peer);
            }
            Output::Serve { peer, request } => self.load(peer, request, inputs),
            Output::TellBusy { peer, request } => {
                self.metrics.busy_answers.inc();
                self.serving.forget(peer, request);
                self.tell(peer, Message::Busy(wire::Busy { id: request }));
            }
            Output::Done(digest) => {
                self.wanted.remove(&digest);
                self.announcer.soon();
            }
            Output::Failed { digest, why } => self.fail(&digest, why),
        }
    }

    fn read_letters(&mut self, letters: Letters) {
        for peer in &letters.peers {
            self.learn(peer);
        }
        for (digest, want) in letters.wants {
            match want {
                Some(want) => self.want(want),
                None => {
                    self.wanted.remove(&digest);
                    self.feed(Input::Unwant(digest));
                }
            }
        }
        for ((digest, client), piece) in letters.cursors {
            self.feed(Input::Cursor { digest, client, piece });
        }
        let leaves = letters.permits.into_iter().filter_map(ask::leave).collect();
        self.granted(leaves);
        for question in letters.plans {
            self.ask_plan(question);
        }
    }

    fn want(&mut self, want: Want) {
        let blob = Arc::clone(&want.blob);
        let digest = blob.digest();
        let order = want.order;
        let list = &blob.list().list;
        let piece_bytes = list.piece_bytes();
        self.wanted.entry(digest).or_insert_with(|| {
            let (delivered, refusal) = (Mutex::default(), Mutex::default());
            Arc::new(Wanted { want, delivered, refusal })
        });
        let (size, held) = (blob.size(), blob.held());
        self.feed(Input::Want(WantBlob { digest, size, piece_bytes, order, held }));
        let early = std::mem::take(&mut self.early);
        let (its, others) = early.into_iter().partition(|(_, leave)| leave.digest == digest);
        self.early = others;
        let its: VecDeque<(Instant, Leave)> = its;
        self.granted(its.into_iter().map(|(_, leave)| leave).collect());
        self.announcer.soon();
    }

    /// Passes leave on; what is for blobs that nobody wants yet waits a while.
    fn granted(&mut self, leaves: Vec<Leave>) {
        let known = |leave: &Leave| self.wanted.contains_key(&leave.digest);
        let (known, early): (Vec<_>, Vec<_>) = leaves.into_iter().partition(known);
        let now = Instant::now();
        self.early.retain(|(until, _)| now < *until);
        let room = EARLY_MAX.saturating_sub(self.early.len());
        self.early.extend(early.into_iter().take(room).map(|leave| {
            (now + Duration::from_millis(u64::from(leave.permit.deadline_ms)), leave)
        }));
        if !known.is_empty() {
            self.feed(Input::Granted(known));
        }
    }

    fn learn(&mut self, peer: &rpc::Peer) {
        if let Some(id) = self.book.learn(peer) {
            let same_zone = peer.zone == self.config.zone;
            self.feed(Input::Meet { peer: id, same_zone });
        }
    }

    fn on_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Up { peer, zone } => {
                let same_zone = zone == self.config.zone;
                self.stand(|standing| {
                    standing.peers.insert(peer, same_zone);
                });
                self.feed(Input::PeerUp { peer, same_zone });
            }
            TransportEvent::Down { peer, reason } => {
                tracing::debug!(%peer, %reason, "peer down");
                self.gone(peer);
                self.feed(Input::PeerDown(peer));
            }
            TransportEvent::DialFailed { peer, reason } => {
                tracing::debug!(%peer, %reason, "dial failed");
                self.metrics.dial_failures.inc();
                self.feed(Input::DialFailed(peer));
            }
            TransportEvent::Control { peer, message } => {
                if let Some(message) = message.message {
                    self.on_message(peer, message);
                }
            }
            TransportEvent::Progress { peer, bytes } => self.feed(Input::Progress { peer, bytes }),
            TransportEvent::Piece { peer, id, payload } => self.on_payload(peer, id, payload),
            TransportEvent::Sent { peer, id, bytes } => self.on_sent(peer, id, bytes),
        }
    }

    fn gone(&mut self, peer: PeerId) {
        self.stand(|standing| {
            standing.peers.remove(&peer);
        });
        self.asked.retain(|_, asked| asked.peer != peer);
        self.cancelled.retain(|(_, of)| *of != peer);
        self.plans.retain(|_, asked| asked.peer != peer);
        self.serving.gone(peer);
    }

    fn on_message(&mut self, peer: PeerId, message: Message) {
        match message {
            Message::Have(have) => {
                have.blobs.iter().for_each(|blob| self.on_have(peer, blob));
            }
            Message::Forget(forget) => {
                for digest in forget.digests.iter().filter_map(|text| text.parse().ok()) {
                    self.feed(Input::Forget { peer, digest });
                }
            }
            Message::Want(want) => {
                let digests = want.digests.iter().filter_map(|text| text.parse().ok());
                let digests = digests.collect();
                self.feed(Input::Interest { peer, digests });
            }
            Message::Busy(busy) => {
                if self.answered(peer, busy.id) {
                    self.feed(Input::Busy(busy.id));
                }
            }
            Message::Refused(refused) => {
                self.plans.remove(&refused.id);
                if self.answered(peer, refused.id) {
                    self.feed(Input::Refused(refused.id));
                }
            }
            Message::Request(request) => self.on_request(peer, &request),
            Message::Cancel(cancel) => self.on_cancel(peer, cancel.id),
            Message::PlanAsk(ask) => self.on_plan_ask(peer, ask),
            // A second greeting ends the session before it gets here.
            Message::Hello(_) => {}
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Wrote(wrote) => self.on_wrote(wrote),
            Done::ReadMoved { read, bytes } => self.feed(Input::ReadProgress { read, bytes }),
            Done::ReadEnded { read, end, refusal, wanted } => {
                if let Some(refusal) = refusal {
                    wanted.refuse(refusal);
                }
                if self.reads.remove(&read).is_some() {
                    self.feed(Input::ReadEnded { read, end });
                }
            }
            Done::Permits(answer) => self.on_permits(answer),
            Done::Announced(answer) => self.on_announced(answer),
            Done::Loaded { peer, request, piece } => self.on_loaded(peer, request, piece),
            Done::Plan { peer, request, plan } => self.on_plan_found(peer, request, plan),
        }
    }

    /// Starts a job whose answer comes by the queue.
    fn job(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        self.jobs.spawn(async move {
            // Nobody listens only when the driver has ended.
            let _ = done.send(job.await).await;
        });
    }

    /// Tells a peer something; one that does not read what it is told is dropped.
    fn tell(&self, peer: PeerId, message: Message) {
        let Some(transport) = &self.transport else { return };
        let message = wire::ControlMessage { message: Some(message) };
        if let Err(error) = transport.send_control(peer, message) {
            tracing::debug!(%peer, %error, "could not tell a peer");
            transport.disconnect(peer);
        }
    }

    fn disconnect(&self, peer: PeerId) {
        if let Some(transport) = &self.transport {
            transport.disconnect(peer);
        }
    }

    fn stand(&self, edit: impl FnOnce(&mut Standing)) {
        let mut standing = self.standing.lock().expect("nothing panics while it holds it");
        edit(&mut standing);
        self.metrics.peers.set(i64::try_from(standing.peers.len()).unwrap_or(i64::MAX));
    }
}

impl Wanted {
    /// Notes a peer that delivered; true the first time.
    fn delivered(&self, peer: PeerId) -> bool {
        self.delivered.lock().expect("nothing panics while it holds the peers").insert(peer)
    }

    fn refuse(&self, why: BlobFailure) {
        *self.refusal.lock().expect("nothing panics while it holds the reason") = Some(why);
    }

    fn refusal(&self) -> Option<BlobFailure> {
        self.refusal.lock().expect("nothing panics while it holds the reason").clone()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Somebody waits for a plan.
type PlanAnswer = Arc<Mutex<Option<oneshot::Sender<bytes::Bytes>>>>;
