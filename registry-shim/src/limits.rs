//! What the registry takes on at once, and what one client may ask for.
//!
//! Owns admission (requests, streams and buffered bytes at once, all clients together), throttles
//! (requests per second of one client), paces (bytes per second of one client) and the question who
//! the client is behind a proxy. It answers at once and takes no lock on the way of a request that
//! is let in; only a body that a client's pace holds back waits.

mod admission;
mod client;
mod pace;
mod prefix;
mod throttle;

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

pub use admission::AdmissionMetrics;
pub(crate) use admission::{Admission, Class, PUSH_BYTES_MAX, Place, Shed};
pub(crate) use pace::{PIECE_BYTES, Pace, Pacer};
pub use prefix::{InvalidPrefix, Prefix};
pub(crate) use throttle::{Throttle, Throttled};

/// Finds the client behind proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Vec<Prefix>);

impl Proxies {
    /// These are believed; nobody else.
    pub(crate) const fn new(trusted: Vec<Prefix>) -> Self {
        Self(trusted)
    }

    /// The address that trusted proxies name: the last one that is not itself a trusted proxy.
    /// `None` when it is the connection's own.
    pub(crate) fn client(&self, connected: SocketAddr, headers: &HeaderMap) -> Option<SocketAddr> {
        if self.0.is_empty() || !self.trusts(connected.ip()) {
            return None;
        }
        let mut client = None;
        let named = headers.get_all("x-forwarded-for").iter().rev();
        let named = named.filter_map(|value| value.to_str().ok());
        for name in named.flat_map(|value| value.rsplit(',')) {
            // Behind a name that is none, nothing is sure.
            let Ok(address) = name.trim().parse::<IpAddr>() else { break };
            client = Some(SocketAddr::new(address, 0));
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|prefix| prefix.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_is_whom_the_outermost_trusted_proxy_saw() {
        let proxies =
            Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let client = |connected: &str, values: &[&'static str]| {
            let name = http::HeaderName::from_static("x-forwarded-for");
            let headers: HeaderMap = values
                .iter()
                .map(|value| (name.clone(), HeaderValue::from_static(value)))
                .collect();
            let client = proxies.client(connected.parse().unwrap(), &headers);
            client.map(|client| client.ip().to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(client("10.1.1.1:5", &["192.0.2.7"]), some("192.0.2.7"));
        assert_eq!(client("[fd00::1]:5", &["192.0.2.7, 10.2.2.2"]), some("192.0.2.7"));
        assert_eq!(client("10.1.1.1:5", &["6.6.6.6, 192.0.2.7"]), some("192.0.2.7"), "a lie");
        assert_eq!(client("10.1.1.1:5", &["6.6.6.6", "192.0.2.7"]), some("192.0.2.7"), "two lines");
        assert_eq!(client("10.1.1.1:5", &["192.0.2.7, nonsense"]), None);
        assert_eq!(client("10.1.1.1:5", &[]), None);
        assert_eq!(client("192.0.2.1:5", &["192.0.2.7"]), None, "not a proxy of ours");
    }
}
