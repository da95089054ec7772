//! Multiaddrs that nodes give for their peers to dial.
//!
//! An IP address or a name, a TCP port, and at most the node's own peer id behind them. What else a
//! multiaddr may say is left out: peers dial what stands here.

use std::net::IpAddr;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use crate::auth::NodeSession;

/// Addresses of one node that are kept.
const ADDRESSES_MAX: usize = 16;
const ADDRESS_CHARS_MAX: usize = 256;

/// A node's addresses as its peers are told of them: each once, and with the IP address that the
/// call came from where the node could not say its own.
pub(crate) fn reachable(addresses: &[String], peer: &PeerId, observed: IpAddr) -> Vec<String> {
    let mut kept = Vec::new();
    for text in addresses {
        let Some(address) = one(text, peer, observed) else {
            tracing::debug!(%peer, "a node gives an address that nobody should dial");
            continue;
        };
        if kept.len() < ADDRESSES_MAX && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// As [`reachable`], for the peer that a session names; none where it names none.
pub(crate) fn reachable_of(session: &NodeSession, addresses: &[String], ip: IpAddr) -> Vec<String> {
    let peer = session.peer_id.parse();
    peer.map_or_else(|_| Vec::new(), |peer| reachable(addresses, &peer, ip.to_canonical()))
}

fn one(text: &str, peer: &PeerId, observed: IpAddr) -> Option<String> {
    if text.len() > ADDRESS_CHARS_MAX {
        return None;
    }
    let address: Multiaddr = text.parse().ok()?;
    let mut parts = address.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) if ip.is_unspecified() => Protocol::from(observed),
        Protocol::Ip6(ip) if ip.is_unspecified() => Protocol::from(observed),
        host @ (Protocol::Ip4(_)
        | Protocol::Ip6(_)
        | Protocol::Dns(_)
        | Protocol::Dns4(_)
        | Protocol::Dns6(_)) => host,
        _ => return None,
    };
    let port = match parts.next()? {
        Protocol::Tcp(port) if port > 0 => Protocol::Tcp(port),
        _ => return None,
    };
    let own = match parts.next() {
        None => true,
        Some(Protocol::P2p(named)) => named == *peer && parts.next().is_none(),
        Some(_) => false,
    };
    own.then(|| Multiaddr::empty().with(host).with(port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
    const OTHER: &str = "12D3KooWGrUGvDDEMKRd6eaSGgnVPFTwcnfnJwSexUVoNfEHnsDR";

    fn told(addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        reachable(&addresses, &PEER.parse().unwrap(), "10.0.0.9".parse().unwrap())
    }

    #[test]
    fn an_unspecified_address_stands_for_the_one_that_was_seen() {
        let own = format!("/ip6/fd00::1/tcp/7770/p2p/{PEER}");
        let given = ["/ip4/0.0.0.0/tcp/7770", "/ip6/::/tcp/7770", &own, "/dns/node/tcp/1"];
        let expected = ["/ip4/10.0.0.9/tcp/7770", "/ip6/fd00::1/tcp/7770", "/dns/node/tcp/1"];
        assert_eq!(told(&given), expected);
    }

    #[test]
    fn leaves_out_what_peers_should_not_dial() {
        let long = format!("/dns/{}/tcp/1", "a".repeat(300));
        let of_another = format!("/ip4/10.0.0.1/tcp/1/p2p/{OTHER}");
        let bad = [
            "",
            "10.0.0.1:7770",
            "/ip4/10.0.0.1",
            "/ip4/10.0.0.1/tcp/0",
            "/ip4/10.0.0.1/udp/1",
            "/ip4/10.0.0.1/tcp/1/ws",
            "/tcp/1",
            &of_another,
            &long,
        ];
        assert_eq!(told(&bad), [""; 0]);
    }

    #[test]
    fn keeps_so_many_and_no_more() {
        let many: Vec<String> = (1..=40).map(|port| format!("/ip4/10.0.0.1/tcp/{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(told(&many).len(), ADDRESSES_MAX);
    }
}
