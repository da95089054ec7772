//! Which hosts an upstream may send this registry to.
//!
//! Its own always, others when they are public or when the configuration names them: an answer's
//! `Location` is a stranger's word, and must never make this registry knock at a neighbour's or at
//! a cloud's metadata. A name is judged by the addresses that are connected to, so that it cannot
//! turn private between two look-ups. Behind a proxy of the environment the proxy judges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, ClientBuilder, Url};

use super::challenge::{authority, with_port};
use super::error::UpstreamError;
use crate::config::UpstreamRegistry;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The ways out.
#[derive(Debug)]
pub(super) struct Reach {
    base: Url,
    redirects: Vec<String>,
    /// To the upstream and to what the configuration names.
    known: reqwest::Client,
    /// To what has a public address.
    public: reqwest::Client,
}

/// Resolves to public addresses only.
#[derive(Debug)]
struct PublicOnly;

impl Reach {
    /// Reads what the configuration names; the error is one line.
    pub(super) fn new(config: &UpstreamRegistry) -> Result<Self, String> {
        let known = builder(config)?;
        let public = builder(config)?.dns_resolver(Arc::new(PublicOnly));
        let build = |builder: ClientBuilder| builder.build().map_err(|error| crate::causes(&error));
        Ok(Self {
            base: Url::parse(&config.url).map_err(|error| format!("url: {error}"))?,
            redirects: config.redirects.clone(),
            known: build(known)?,
            public: build(public)?,
        })
    }

    /// The upstream itself.
    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    /// For addresses that were judged already.
    pub(super) const fn known(&self) -> &reqwest::Client {
        &self.known
    }

    /// Whether it is the upstream itself: credentials are for nobody else.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        authority(url) == authority(&self.base) && url.scheme() == self.base.scheme()
    }

    /// The way to `url`, if there may be one.
    pub(super) fn way(&self, url: &Url) -> Result<&reqwest::Client, UpstreamError> {
        let wrong = |what: &str| Err(UpstreamError::BadAnswer(what.to_owned()));
        if self.is_own(url) {
            return Ok(&self.known);
        }
        match url.scheme() {
            "https" => {}
            "http" if self.base.scheme() == "http" => {}
            "http" => return wrong("redirect leaves TLS"),
            _ => return wrong("redirect leads out of HTTP"),
        }
        let named = |host: &String| Some(with_port(host, url)) == authority(url);
        if self.redirects.iter().any(named) {
            return Ok(&self.known);
        }
        let host = url.host_str().unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse().ok();
        if address.is_some_and(|address| !is_public(address)) {
            return wrong("redirect leads to a private address");
        }
        Ok(&self.public)
    }
}

fn builder(config: &UpstreamRegistry) -> Result<ClientBuilder, String> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("longshore-registry/", env!("CARGO_PKG_VERSION")));
    let Some(path) = &config.ca_file else { return Ok(builder) };
    let bad = |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
    let pem = std::fs::read(path).map_err(|error| bad(&error))?;
    let roots = Certificate::from_pem_bundle(&pem).map_err(|error| bad(&error))?;
    if roots.is_empty() {
        return Err(bad(&"holds no certificate"));
    }
    Ok(builder.tls_certs_only(roots))
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|at| is_public(at.ip())).collect();
            if public.is_empty() {
                return Err("redirect leads to a name without a public address".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether anybody in the Internet may have that address. Source: IANA's special-purpose registries.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // "This network", shared by carriers, protocol assignments, benchmarks, reserved.
        [0 | 240.., ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        _ => address.is_private() || address.is_loopback() || address.is_link_local(),
    };
    !special && !address.is_multicast() && !address.is_documentation()
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let last_v4 = |a: u16, b: u16| {
        let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // Forms that carry an older address: compatible, mapped, translated, 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => last_v4(a, b),
        [0x2002, a, b, ..] => last_v4(a, b),
        // Teredo, documentation; then unique local, link local, multicast.
        [0x2001, 0 | 0xdb8, ..] => false,
        // Global unicast is this block alone.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(url: &str, redirects: &str) -> Reach {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let text = format!("prefix = \"a\"\nurl = \"{url}\"\nredirects = [{redirects}]\n");
        Reach::new(&toml::from_str(&text).unwrap()).unwrap()
    }

    fn goes(reach: &Reach, url: &str) -> bool {
        reach.way(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn private_addresses_of_every_form_are_refused() {
        let reach = reach("https://hub.example", "");
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "[::]",
            "[fc00::1]",
            "[fe80::1]",
            "[ff02::1]",
            "[::ffff:10.0.0.1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a00:1]",
            "[2002:7f00:1::]",
            "[2001:db8::1]",
        ] {
            assert!(!goes(&reach, &format!("https://{host}/x")), "{host}");
        }
        for host in ["1.1.1.1", "[2606:4700::1111]", "[::ffff:1.1.1.1]", "layers.example"] {
            assert!(goes(&reach, &format!("https://{host}/x")), "{host}");
        }
    }

    #[test]
    fn tls_is_never_left_and_what_is_named_may_be_private() {
        let secure = reach("https://hub.example", "\"10.0.0.1:9000\", \"10.0.0.2\"");
        assert!(goes(&secure, "https://10.0.0.1:9000/x") && goes(&secure, "https://10.0.0.2/x"));
        for url in [
            "http://1.1.1.1/x",
            "http://10.0.0.1:9000/x",
            "https://10.0.0.1/x",
            "https://10.0.0.2:9000/x",
            "ftp://1.1.1.1/x",
            "http://hub.example/x",
        ] {
            assert!(!goes(&secure, url), "{url}");
        }
        let clear = reach("http://127.0.0.1:5000", "");
        assert!(goes(&clear, "http://127.0.0.1:5000/x") && goes(&clear, "https://1.1.1.1/x"));
        assert!(!goes(&clear, "http://127.0.0.1:5001/x"));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        let name: Name = "localhost".parse().unwrap();
        assert!(PublicOnly.resolve(name).await.is_err());
    }
}
