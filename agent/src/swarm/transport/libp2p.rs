//! Peers over libp2p: TCP, TLS, yamux, two streams each way.
//!
//! Owns the listening port and one network task, which dials, accepts and starts a session per
//! connection; sessions run beside it, so no peer makes it wait. It ends with the shutdown token,
//! and has then ended every session and connection task.

mod behaviour;
mod handler;
mod muxer;
#[cfg(test)]
mod tests;
mod upgrade;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use ::libp2p::core::ConnectedPoint;
use ::libp2p::identity::Keypair;
use ::libp2p::multiaddr::Protocol;
use ::libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use ::libp2p::swarm::{ConnectionId, DialError, Swarm, SwarmEvent};
use ::libp2p::{Multiaddr, PeerId};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::behaviour::{Behaviour, ConnectionOpened};
use super::handle::Handle;
use super::link::Stop;
use super::session;
use super::table::{Attempt, Dial, Table};
use super::{DownReason, EVENTS_MAX, Transport, TransportConfig, TransportEvent};

/// For the listener to name the port that it got.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken or may not be had.
    #[error("cannot listen on {addr}: {reason}")]
    Listen {
        /// What was asked for.
        addr: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// The identity makes no certificate.
    #[error("no certificate from this identity: {0}")]
    Identity(#[from] ::libp2p::tls::certificate::GenError),
}

/// Listens, and starts the network task. Dropping the receiver drops events; only `shutdown` ends
/// the task.
pub async fn start(
    config: TransportConfig,
    keypair: Keypair,
    shutdown: CancellationToken,
) -> Result<(Arc<dyn Transport>, mpsc::Receiver<TransportEvent>, JoinHandle<()>), StartError> {
    let tasks = TaskTracker::new();
    let mut swarm = swarm(&config, &keypair, &tasks, &shutdown)?;
    let addr = listen(&mut swarm, config.listen).await?;
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let local = *swarm.local_peer_id();
    let table = Table::new(local, config, events, shutdown.clone());
    let transport = Arc::new(Handle::new(table.clone(), addr, |_, payload| payload));
    let network = Network {
        swarm,
        table,
        dials: HashMap::new(),
        connections: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let task = tokio::spawn(async move {
        network.run(shutdown).await;
        tasks.close();
        tasks.wait().await;
    });
    Ok((transport, receiver, task))
}

fn swarm(
    config: &TransportConfig,
    keypair: &Keypair,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Swarm<Behaviour>, StartError> {
    let (tasks, shutdown) = (tasks.clone(), shutdown.clone());
    let spawn = move |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let shutdown = shutdown.clone();
        tasks.spawn(async move { shutdown.run_until_cancelled_owned(task).await });
    };
    Ok(Swarm::new(
        upgrade::upgrade(config, keypair)?,
        Behaviour::new(config),
        keypair.public().to_peer_id(),
        ::libp2p::swarm::Config::with_executor(spawn),
    ))
}

/// The bound address.
async fn listen(swarm: &mut Swarm<Behaviour>, addr: SocketAddr) -> Result<SocketAddr, StartError> {
    let refused = |reason: String| StartError::Listen { addr, reason };
    // libp2p listens with SO_REUSEPORT, and so would share a port that another agent has.
    drop(TcpListener::bind(addr).map_err(|error| refused(error.to_string()))?);
    let tcp = Protocol::Tcp(addr.port());
    let multiaddr = Multiaddr::from(addr.ip()).with(tcp);
    swarm.listen_on(multiaddr).map_err(|error| refused(error.to_string()))?;
    if addr.port() != 0 {
        return Ok(addr);
    }
    let named = async {
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        }
    };
    let named = tokio::time::timeout(LISTEN_TIMEOUT, named).await.ok();
    let port = named.and_then(|address| {
        address.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        })
    });
    let port = port.ok_or_else(|| refused("no port was named in time".into()))?;
    Ok(SocketAddr::new(addr.ip(), port))
}

/// `/ip4/…/tcp/…`, what [`Transport::dial`] takes.
pub fn multiaddr(addr: SocketAddr) -> Multiaddr {
    let ip: IpAddr = addr.ip();
    Multiaddr::from(ip).with(Protocol::Tcp(addr.port()))
}

/// The network task.
struct Network {
    swarm: Swarm<Behaviour>,
    table: Arc<Table>,
    /// Until they have become connections or failed.
    dials: HashMap<ConnectionId, Attempt>,
    connections: HashMap<ConnectionId, Connection>,
    /// Sessions, and reports that wait for room; the connection that has ended, if one has.
    tasks: JoinSet<Option<ConnectionId>>,
}

/// An established connection.
struct Connection {
    /// Until its session has it.
    attempt: Option<Attempt>,
    stop: Stop,
}

impl Network {
    async fn run(mut self, shutdown: CancellationToken) {
        let table = self.table.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = table.ordered.notified() => self.carry_out_orders(),
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(Some(connection)) => {
                        self.swarm.close_connection(connection);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "session failed"),
                },
            }
        }
        for connection in self.connections.values() {
            connection.stop.stop(DownReason::Disconnected);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn carry_out_orders(&mut self) {
        let orders = self.table.take_orders();
        for Dial { attempt, addresses, has_room } in orders.dials {
            if has_room {
                self.dial(attempt, addresses);
            } else {
                self.fail(attempt, DownReason::TooMany);
            }
        }
        for peer in orders.hangups {
            // Fails when nothing was established; dials are given up all the same.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn dial(&mut self, attempt: Attempt, addresses: Vec<Multiaddr>) {
        if attempt.peer == self.table.local || addresses.is_empty() {
            let reason = DownReason::Unreachable("no address of another node".into());
            return self.fail(attempt, reason);
        }
        // From a port of its own: two nodes that dial each other from their listening ports would
        // meet in one TCP connection with two clients and no server.
        let options = DialOpts::peer_id(attempt.peer)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, attempt);
            }
            Err(error) => self.fail(attempt, dial_failure(&error)),
        }
    }

    fn fail(&mut self, attempt: Attempt, reason: DownReason) {
        self.tasks.spawn(async move {
            attempt.failed(reason).await;
            None
        });
    }

    fn on_event(&mut self, event: SwarmEvent<behaviour::BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(attempt) = self.dials.remove(&connection_id) {
                    self.fail(attempt, dial_failure(&error));
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                let why = cause.map_or_else(|| "connection closed".into(), |c| c.to_string());
                self.end(connection_id, DownReason::Closed(why));
            }
            SwarmEvent::Behaviour(behaviour::BehaviourEvent::Connections(opened)) => {
                self.on_opened(opened);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, %error, "incoming connection failed");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listener");
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "listener closed: peers cannot reach this node");
            }
            _ => {}
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        tracing::debug!(%peer, address = %endpoint.get_remote_address(), "connection");
        let attempt = self.dials.remove(&id).unwrap_or_else(|| self.table.attempt(peer));
        let connection = Connection { attempt: Some(attempt), stop: Stop::default() };
        self.connections.insert(id, connection);
    }

    fn on_opened(&mut self, ConnectionOpened { connection, opened }: ConnectionOpened) {
        let streams = match opened {
            Ok(streams) => streams,
            Err(reason) => {
                self.end(connection, reason);
                self.swarm.close_connection(connection);
                return;
            }
        };
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let Some(attempt) = known.attempt.take() else { return };
        let (table, stop) = (self.table.clone(), known.stop.clone());
        self.tasks.spawn(async move {
            session::run(table, attempt, streams, stop).await;
            Some(connection)
        });
    }

    /// The connection is over or of no use; its session, if it has one, tells so.
    fn end(&mut self, id: ConnectionId, reason: DownReason) {
        let Some(connection) = self.connections.remove(&id) else { return };
        connection.stop.stop(reason.clone());
        if let Some(attempt) = connection.attempt {
            self.fail(attempt, reason);
        }
    }
}

fn dial_failure(error: &DialError) -> DownReason {
    match error {
        DialError::Denied { .. } => DownReason::TooMany,
        DialError::Aborted => DownReason::Disconnected,
        other => DownReason::Unreachable(other.to_string()),
    }
}
