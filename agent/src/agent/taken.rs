//! What an agent takes before anything runs: ports, the disk, the operators' socket.
//!
//! A start that can not succeed ends here, with one line, and has changed nothing.

use std::net::SocketAddr;

use libp2p::identity::Keypair;
use tokio::net::TcpListener;

use super::StartError;
use crate::config::Config;
use crate::containerd::remove_ours;
use crate::control::ControlSocket;
use crate::identity;
use crate::store::{PieceStore, StoreMetrics};

/// All of it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) mirror: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) control: ControlSocket,
    pub(super) store: PieceStore,
    pub(super) identity: Keypair,
}

impl Taken {
    pub(super) async fn take(config: &Config, metrics: StoreMetrics) -> Result<Self, StartError> {
        let mirror = listen("mirror.listen", config.mirror.listen).await?;
        let admin = listen("admin.listen", config.admin_listen).await?;
        let (settings, hosts_dir) = (config.store.clone(), config.containerd.hosts_dir.clone());
        let disk = tokio::task::spawn_blocking(move || {
            let store = PieceStore::open(&settings, metrics)?;
            let identity = identity::load_or_make(&settings.path)?;
            // Ports and store are ours: what is there was left by an agent that is dead, and
            // leads to a port that nobody answers yet.
            remove_ours(&hosts_dir)?;
            Ok::<_, StartError>((store, identity))
        });
        let (store, identity) = disk.await.map_err(|error| StartError::Runtime(error.into()))??;
        let control = ControlSocket::bind(&config.control_socket)?;
        Ok(Self { mirror, admin, control, store, identity })
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::listen(key, address, source))
}
