//! Why an agent does not start: one line with the setting's key, and the exit code of its kind.

use std::io;
use std::net::SocketAddr;

use crate::containerd::HostsError;
use crate::control::SocketError;
use crate::identity::IdentityError;
use crate::origin::OriginError;
use crate::store::StoreError;
use crate::swarm::SwarmError;

/// sysexits(3) EX_UNAVAILABLE: something else has what this agent needs.
const EXIT_TAKEN: u8 = 69;
const EXIT_UNUSABLE: u8 = 1;

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the port.
    #[error("{key}: address {address} is in use")]
    Taken {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// The port can not be had.
    #[error("{key}: address {address}: {source}{}", hint(.source))]
    Listen {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The disk, or another agent on it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operators' socket.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// hosts.toml.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// The origin's settings make no client.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The swarm's network.
    #[error("swarm.listen: {0}")]
    Swarm(#[from] SwarmError),
    /// The mirror listens and does not answer.
    #[error("mirror.listen: the mirror does not answer its own request: {0}")]
    Mirror(io::Error),
    /// The system refuses threads, signals or tasks.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl StartError {
    /// For a port that could not be bound.
    pub(super) fn listen(key: &'static str, address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { key, address },
            _ => Self::Listen { key, address, source },
        }
    }

    /// What the process ends with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Taken { .. }
            | Self::Store(StoreError::Locked(_))
            | Self::Control(SocketError::InUse(_)) => EXIT_TAKEN,
            _ => EXIT_UNUSABLE,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_line_and_its_code() {
        let address = "127.0.0.1:777".parse().unwrap();
        let error = |kind: io::ErrorKind| StartError::listen("mirror.listen", address, kind.into());
        let taken = error(io::ErrorKind::AddrInUse);
        assert_eq!(taken.to_string(), "mirror.listen: address 127.0.0.1:777 is in use");
        assert_eq!(taken.exit_code(), 69);
        let denied = error(io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().ends_with("need CAP_NET_BIND_SERVICE)"), "{denied}");
        assert_eq!(denied.exit_code(), 1);
    }
}
