//! Passes TCP connections on, byte by byte, and lets a fault act on what comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::{Fault, Step};
use crate::testkit::error::{Context, Result};
use crate::testkit::host::Host;

const BUFFER_BYTES: usize = 64 * 1024;

/// A proxy for one port of one upstream.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    connections: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl TcpProxy {
    /// Listens on `port` of `host` and passes connections to `upstream`.
    pub async fn start(host: &Host, port: u16, upstream: SocketAddr) -> Result<Self> {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = host.namespace().run(TcpListener::bind(bind)).await?;
        let listener = listener.during(|| format!("{bind} on {}", host.role()))?;
        let bound = listener.local_addr().during(|| "a listener's address".to_owned())?;
        let (fault, faults) = watch::channel(Fault::Pass);
        let connections = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let accept = accept(listener, upstream, faults, Arc::clone(&connections), stop.clone());
        host.namespace().spawn(stop.clone().run_until_cancelled_owned(accept));
        let address = SocketAddr::from((host.address(), bound.port()));
        Ok(Self { address, fault, connections, _stop: stop.drop_guard() })
    }

    /// Where other hosts reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, also on open connections.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    faults: watch::Receiver<Fault>,
    connections: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    while let Ok((client, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let connection = pass(client, upstream, faults.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

/// One connection until either side ends it.
async fn pass(client: TcpStream, upstream: SocketAddr, faults: watch::Receiver<Fault>) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, None);
    let down = pump(from_server, to_client, Some(faults));
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: Option<watch::Receiver<Fault>>,
) {
    let mut passed = 0;
    loop {
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        if !matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
        let mut bytes = buffer.freeze();
        while !bytes.is_empty() {
            let fault = faults.as_mut().map_or(Fault::Pass, |faults| *faults.borrow_and_update());
            if let Fault::Delay(delay) = fault
                && passed == 0
            {
                sleep(delay).await;
            }
            let (now, stalled) = match fault.step(passed, bytes.clone()) {
                Step::Pass(now) => (now, false),
                Step::Stall(now) => (now, true),
                Step::Cut(now) => {
                    let _ = to.write_all(&now).await;
                    return;
                }
            };
            if to.write_all(&now).await.is_err() {
                return;
            }
            passed += now.len() as u64;
            let _ = bytes.split_to(now.len());
            if let (true, Some(faults)) = (stalled, faults.as_mut())
                && faults.changed().await.is_err()
            {
                return;
            }
        }
    }
}
