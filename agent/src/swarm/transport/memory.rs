//! Peers without a network: for tests of whoever uses [`Transport`].
//!
//! The sessions, queues and bounds are the real ones; only what carries the bytes is a pipe. The
//! pipes can be cut, stalled and delayed, and payloads corrupted, and all of it obeys tokio's
//! paused clock. Never part of a running agent.

mod pipe;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::libp2p::PeerId;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::pipe::Pipes;
use super::handle::Handle;
use super::link::Stop;
use super::session;
use super::table::{Attempt, Dial, Table};
use super::{DownReason, EVENTS_MAX, Transport, TransportConfig, TransportEvent};

/// Connections that a node has yet to take up.
const INCOMING_MAX: usize = 64;
/// For the last bytes of a connection to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// Nodes that can reach each other, unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    faults: watch::Sender<Faults>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<PeerId, mpsc::Sender<Incoming>>,
    made: u16,
}

/// What is wrong with the network, by direction.
#[derive(Clone, Debug, Default)]
struct Faults {
    cut: HashSet<(PeerId, PeerId)>,
    stalled: HashSet<(PeerId, PeerId)>,
    corrupt: HashSet<(PeerId, PeerId)>,
    delay: Duration,
}

/// The far half of a connection that someone made.
struct Incoming {
    peer: PeerId,
    pipes: Pipes,
}

impl Network {
    /// An empty one, without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node, which leaves when `shutdown` is cancelled. Peers need no address to dial it.
    pub fn join(
        &self,
        peer: PeerId,
        config: TransportConfig,
        shutdown: CancellationToken,
    ) -> (Arc<dyn Transport>, mpsc::Receiver<TransportEvent>, JoinHandle<()>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let (incoming, arrivals) = mpsc::channel(INCOMING_MAX);
        let addr = {
            let mut state = self.state();
            state.nodes.insert(peer, incoming);
            state.made += 1;
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), state.made)
        };
        let table = Table::new(peer, config, events, shutdown.clone());
        let faults = self.shared.faults.subscribe();
        let transport = Handle::new(table.clone(), addr, move |to, payload: Bytes| {
            let is_corrupt = faults.borrow().corrupt.contains(&(peer, to));
            if is_corrupt { corrupted(&payload) } else { payload }
        });
        let node = Node { network: self.clone(), table, arrivals, tasks: JoinSet::new() };
        let task = tokio::spawn(node.run(shutdown));
        (Arc::new(transport), receiver, task)
    }

    /// Ends the connections between two nodes, and every further dial.
    pub fn cut(&self, a: PeerId, b: PeerId) {
        self.shared.faults.send_modify(|faults| {
            faults.cut.extend([(a, b), (b, a)]);
        });
    }

    /// Undoes [`Self::cut`] and [`Self::stall`].
    pub fn mend(&self, a: PeerId, b: PeerId) {
        self.shared.faults.send_modify(|faults| {
            for link in [(a, b), (b, a)] {
                faults.cut.remove(&link);
                faults.stalled.remove(&link);
            }
        });
    }

    /// Lets no byte through between two nodes, while their connection stands.
    pub fn stall(&self, a: PeerId, b: PeerId) {
        self.shared.faults.send_modify(|faults| {
            faults.stalled.extend([(a, b), (b, a)]);
        });
    }

    /// Flips a bit in every payload that `from` sends `to` from now on, or no longer.
    pub fn corrupt(&self, from: PeerId, to: PeerId, on: bool) {
        self.shared.faults.send_modify(|faults| {
            if on {
                faults.corrupt.insert((from, to));
            } else {
                faults.corrupt.remove(&(from, to));
            }
        });
    }

    /// How long each byte is on its way from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, its far half given to that peer.
    fn connect(&self, from: PeerId, to: PeerId) -> Result<Pipes, DownReason> {
        let unreachable = || DownReason::Unreachable("no such node in reach".into());
        if self.shared.faults.borrow().cut.contains(&(from, to)) {
            return Err(unreachable());
        }
        let node = self.state().nodes.get(&to).cloned().ok_or_else(unreachable)?;
        let (near, far) = pipe::connection((from, to), &self.shared.faults);
        let incoming = Incoming { peer: from, pipes: far };
        node.try_send(incoming).map_err(|_| unreachable())?;
        Ok(near)
    }
}

fn corrupted(payload: &Bytes) -> Bytes {
    let mut bytes = payload.to_vec();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    bytes.into()
}

/// A node's network task.
struct Node {
    network: Network,
    table: Arc<Table>,
    arrivals: mpsc::Receiver<Incoming>,
    tasks: JoinSet<()>,
}

impl Node {
    async fn run(mut self, shutdown: CancellationToken) {
        let table = self.table.clone();
        // What is under way, so that it can be given up.
        let mut under_way: Vec<(PeerId, Stop)> = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = table.ordered.notified() => {
                    let orders = table.take_orders();
                    for dial in orders.dials {
                        under_way.push((dial.attempt.peer, self.dial(dial)));
                    }
                    for (peer, stop) in &under_way {
                        if orders.hangups.contains(peer) {
                            stop.stop(DownReason::Disconnected);
                        }
                    }
                }
                Some(Incoming { peer, pipes }) = self.arrivals.recv() => {
                    let (attempt, stop) = (table.attempt(peer), Stop::default());
                    under_way.push((peer, stop.clone()));
                    self.tasks.spawn(run(table.clone(), attempt, pipes, stop));
                }
                Some(_) = self.tasks.join_next() => {}
            }
            // A session holds its half of the switch for as long as it lives.
            under_way.retain(|(_, stop)| stop.is_held_elsewhere());
        }
        self.network.state().nodes.remove(&self.table.local);
        for (_, stop) in &under_way {
            stop.stop(DownReason::Disconnected);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn dial(&mut self, Dial { attempt, has_room, .. }: Dial) -> Stop {
        let stop = Stop::default();
        let (network, table, given_up) = (self.network.clone(), self.table.clone(), stop.clone());
        self.tasks.spawn(async move {
            if !has_room {
                return attempt.failed(DownReason::TooMany).await;
            }
            let delay = network.shared.faults.borrow().delay;
            let (limit, peer) = (table.config.dial_timeout, attempt.peer);
            let mut connected = Err(DownReason::Unreachable("this is that node".into()));
            if peer != table.local {
                tokio::time::sleep((2 * delay).min(limit)).await;
                connected = network.connect(table.local, peer);
            }
            match connected {
                Ok(pipes) => run(table, attempt, pipes, given_up).await,
                Err(reason) => attempt.failed(reason).await,
            }
        });
        stop
    }
}

async fn run(table: Arc<Table>, attempt: Attempt, pipes: Pipes, stop: Stop) {
    let Pipes { streams, mut pump } = pipes;
    let session = session::run(table, attempt, streams, stop);
    tokio::pin!(session);
    let is_cut = tokio::select! {
        () = &mut session => false,
        () = &mut pump => true,
    };
    if is_cut {
        session.await;
    } else {
        // What was written before the end still arrives, or is lost with its reader's slowness.
        let _ = tokio::time::timeout(LINGER, pump).await;
    }
}
