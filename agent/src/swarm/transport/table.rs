//! Who is connected, whose dial is unanswered, and which of several connections counts.
//!
//! Two peers that dial each other at once make two connections. Of the two, the one with the
//! smaller identity is the arbiter: it greets back on one connection only, and a connection counts
//! once both have greeted. So both sides agree without a clock, and none that counted is given up
//! for another of the same moment. The table never does I/O; what it decides, sessions carry out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::libp2p::{Multiaddr, PeerId};
use bytes::Bytes;
use longshore_proto::rpc::swarm::ControlMessage;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::{DownReason, SendError, TransportConfig, TransportEvent};
use crate::swarm::wire::{CONTROL_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Dials that have not been answered; further ones are ignored.
const DIALS_MAX: usize = 1024;
/// Addresses that one dial tries, all at once.
const DIAL_ADDRESSES_MAX: usize = 8;
/// How long a connection waits for the one before it to end, when that one may just be ending.
const RACE_GRACE: Duration = Duration::from_millis(500);

/// State shared by the transport's handle, its sessions and its network task.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) local: PeerId,
    pub(super) config: TransportConfig,
    events: mpsc::Sender<TransportEvent>,
    shutdown: CancellationToken,
    inner: Mutex<Inner>,
    /// Told when [`Table::take_orders`] has something to give.
    pub(super) ordered: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    links: HashMap<PeerId, Entry>,
    /// Peers whose dial awaits its one answer.
    unanswered: HashSet<PeerId>,
    /// Dials and greetings under way, any of which may still answer.
    attempts: HashMap<PeerId, usize>,
    dials: VecDeque<Dial>,
    hangups: HashSet<PeerId>,
}

/// The connection that counts, from the arbiter's choice until its `Down` has been told.
#[derive(Debug)]
struct Entry {
    link: Arc<Link>,
    /// Between its `Up` and its end: things can be sent.
    up: bool,
}

/// A dial for the network to carry out.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) attempt: Attempt,
    pub(super) addresses: Vec<Multiaddr>,
    /// There was room for one more connection; otherwise it fails.
    pub(super) has_room: bool,
}

/// What the handle has asked of the network task.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) dials: VecDeque<Dial>,
    /// Give up whatever is under way with these peers.
    pub(super) hangups: HashSet<PeerId>,
}

impl Table {
    pub(super) fn new(
        local: PeerId,
        config: TransportConfig,
        events: mpsc::Sender<TransportEvent>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let inner = Mutex::default();
        Arc::new(Self { local, config, events, shutdown, inner, ordered: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock, and the maps are whole between calls.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the driver; waits for room, but not past the shutdown.
    pub(super) async fn tell(&self, event: TransportEvent) {
        tokio::select! {
            biased;
            // Fails when the driver is gone, and then nobody wants to know.
            _ = self.events.send(event) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    // ---- the handle's side

    pub(super) fn dial(self: &Arc<Self>, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.truncate(DIAL_ADDRESSES_MAX);
        let mut inner = self.inner();
        let is_up = inner.links.get(&peer).is_some_and(|entry| entry.up);
        if is_up || inner.unanswered.contains(&peer) {
            return;
        }
        if inner.unanswered.len() >= DIALS_MAX {
            tracing::warn!(%peer, "dial ignored: {DIALS_MAX} dials are unanswered");
            return;
        }
        let busy = inner.links.len() + inner.unanswered.len();
        let has_room = busy < self.config.connections_max;
        inner.unanswered.insert(peer);
        let attempt = self.begin(&mut inner, peer);
        inner.dials.push_back(Dial { attempt, addresses, has_room });
        self.ordered.notify_one();
    }

    pub(super) fn disconnect(&self, peer: PeerId) {
        let mut inner = self.inner();
        if let Some(entry) = inner.links.get(&peer) {
            entry.link.stop.stop(DownReason::Disconnected);
        }
        if inner.unanswered.contains(&peer) {
            inner.hangups.insert(peer);
            self.ordered.notify_one();
        }
    }

    pub(super) fn send_control(
        &self,
        peer: PeerId,
        message: ControlMessage,
    ) -> Result<(), SendError> {
        if message.encoded_len() > CONTROL_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        self.link(peer)?.send_control(message)
    }

    pub(super) fn send_piece(
        &self,
        peer: PeerId,
        id: u64,
        payload: Bytes,
    ) -> Result<(), SendError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        self.link(peer)?.bulk().push(id, payload)
    }

    pub(super) fn cancel_piece(&self, peer: PeerId, id: u64) {
        if let Ok(link) = self.link(peer) {
            link.bulk().cancel(id);
        }
    }

    fn link(&self, peer: PeerId) -> Result<Arc<Link>, SendError> {
        let inner = self.inner();
        let entry = inner.links.get(&peer).filter(|entry| entry.up);
        entry.map(|entry| entry.link.clone()).ok_or(SendError::NotConnected)
    }

    // ---- the network task's side

    pub(super) fn take_orders(&self) -> Orders {
        let mut inner = self.inner();
        Orders {
            dials: std::mem::take(&mut inner.dials),
            hangups: std::mem::take(&mut inner.hangups),
        }
    }

    /// Something has begun that may end in an `Up` of this peer.
    pub(super) fn attempt(self: &Arc<Self>, peer: PeerId) -> Attempt {
        self.begin(&mut self.inner(), peer)
    }

    fn begin(self: &Arc<Self>, inner: &mut Inner, peer: PeerId) -> Attempt {
        *inner.attempts.entry(peer).or_default() += 1;
        Attempt { table: self.clone(), peer }
    }

    // ---- the sessions' side

    /// Whether this side chooses among connections to that peer.
    pub(super) fn is_arbiter(&self, peer: PeerId) -> bool {
        self.local < peer
    }

    /// Makes this the connection that counts; on the arbiter's side before it greets, on the other
    /// once it has been greeted.
    pub(super) async fn admit(&self, peer: PeerId, link: &Arc<Link>) -> Result<(), DownReason> {
        while let Some(before) = self.claim(peer, link) {
            let gone = before.gone.cancelled();
            if before.stop.reason().is_some() {
                gone.await;
            } else if tokio::time::timeout(RACE_GRACE, gone).await.is_err() {
                return Err(DownReason::Replaced);
            }
        }
        Ok(())
    }

    /// None when claimed; otherwise the connection that is in the way.
    fn claim(&self, peer: PeerId, link: &Arc<Link>) -> Option<Arc<Link>> {
        let mut inner = self.inner();
        if let Some(entry) = inner.links.get(&peer) {
            let before = entry.link.clone();
            // A peer that dials although it is connected for so long has lost that connection.
            let is_stale = before.since.elapsed() > self.race_window();
            if !self.is_arbiter(peer) || is_stale {
                before.stop.stop(DownReason::Replaced);
            }
            return Some(before);
        }
        inner.links.insert(peer, Entry { link: link.clone(), up: false });
        None
    }

    /// The longest time from a dial to its greeting.
    fn race_window(&self) -> Duration {
        self.config.dial_timeout + 2 * self.config.handshake_timeout
    }

    /// Both sides have greeted; the caller tells `Up`, which answers every dial.
    pub(super) fn up(&self, link: &Arc<Link>, attempt: Attempt) {
        let peer = attempt.peer;
        let mut inner = self.inner();
        if let Some(entry) = inner.links.get_mut(&peer)
            && Arc::ptr_eq(&entry.link, link)
        {
            entry.up = true;
        }
        inner.unanswered.remove(&peer);
        inner.end(peer);
    }

    /// Tells of the end and makes room for the next connection, in that order.
    pub(super) async fn down(&self, peer: PeerId, link: &Arc<Link>, reason: DownReason) {
        link.stop.stop(reason.clone());
        if let Some(entry) = self.inner().links.get_mut(&peer) {
            entry.up = false;
        }
        self.tell(TransportEvent::Down { peer, reason }).await;
        self.release(peer, link);
    }

    /// Makes room for the next connection.
    pub(super) fn release(&self, peer: PeerId, link: &Arc<Link>) {
        let mut inner = self.inner();
        if inner.links.get(&peer).is_some_and(|entry| Arc::ptr_eq(&entry.link, link)) {
            inner.links.remove(&peer);
        }
        link.gone.cancel();
    }
}

impl Inner {
    /// One attempt fewer; true when it was the last.
    fn end(&mut self, peer: PeerId) -> bool {
        let left = self.attempts.get(&peer).map_or(0, |attempts| attempts.saturating_sub(1));
        if left == 0 {
            self.attempts.remove(&peer);
        } else {
            self.attempts.insert(peer, left);
        }
        left == 0
    }
}

/// A dial or a greeting under way. Whoever holds it ends it: [`Table::up`] or [`Attempt::failed`].
#[derive(Debug)]
#[must_use = "a dial is answered when its last attempt has ended"]
pub(super) struct Attempt {
    table: Arc<Table>,
    pub(super) peer: PeerId,
}

impl Attempt {
    /// Tells `DialFailed` if someone had dialled and nothing else is under way.
    pub(super) async fn failed(self, reason: DownReason) {
        let Self { table, peer } = self;
        let is_answer = {
            let mut inner = table.inner();
            inner.end(peer) && inner.unanswered.remove(&peer)
        };
        if is_answer {
            table.tell(TransportEvent::DialFailed { peer, reason }).await;
        }
    }
}
