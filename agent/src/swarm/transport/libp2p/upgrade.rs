//! From a TCP connection to a secured, multiplexed one: the only place that knows how.
//!
//! Today the peer proves the key that its `PeerId` is made of, by libp2p's own TLS, and any key
//! will do. Here fleet certificates will sit: an upgrade that gives `(PeerId, stream)` only to
//! holders of a certificate of the fleet, in place of `tls`.

use std::io;
use std::time::Duration;

use ::libp2p::core::muxing::StreamMuxerBox;
use ::libp2p::core::transport::timeout::TransportTimeout;
use ::libp2p::core::transport::{Boxed, Transport};
use ::libp2p::core::upgrade::Version;
use ::libp2p::identity::Keypair;
use ::libp2p::{PeerId, tcp, tls};
use socket2::{SockRef, TcpKeepalive};

use super::muxer::Yamux;
use crate::swarm::transport::TransportConfig;

/// Bytes that the kernel takes beyond those on their way. What waits, waits with us, where a
/// message overtakes a payload; 128 KiB keep a link busy between two wakes of ours.
const NOT_SENT_BYTES: u32 = 128 * 1024;
/// Between two probes of a silent peer, and how many of them may be lost.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 2;

/// TCP, secured and multiplexed, each step within its bound.
pub(super) fn upgrade(
    config: &TransportConfig,
    keypair: &Keypair,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, tls::certificate::GenError> {
    let silence = config.write_timeout;
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)).and_then(
        move |stream: tcp::tokio::TcpStream, _| {
            std::future::ready(bound_silence(&stream.0, silence).map(|()| stream))
        },
    );
    let connected = TransportTimeout::with_outgoing_timeout(tcp, config.dial_timeout);
    Ok(connected
        .upgrade(Version::V1Lazy)
        .authenticate(tls::Config::new(keypair)?)
        .multiplex(Yamux)
        .timeout(config.dial_timeout + config.handshake_timeout)
        .boxed())
}

/// A peer whose machine has vanished says nothing more: let the kernel find out.
fn bound_silence(stream: &tokio::net::TcpStream, silence: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(silence))?;
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_INTERVAL)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}
