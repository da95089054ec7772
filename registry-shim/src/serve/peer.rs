//! Who is at the other end of a connection, as far as the connection itself proves it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// The leaf that it showed, verified against the configured authorities; `None` without TLS, or
    /// when it showed none.
    pub certificate: Option<Arc<CertificateDer<'static>>>,
    /// The connection is encrypted.
    pub tls: bool,
}

impl Peer {
    /// In the clear: nothing is known but the address.
    pub const fn at(address: SocketAddr) -> Self {
        Self { address, certificate: None, tls: false }
    }
}
