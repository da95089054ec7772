//! What a registry asks for with 401, and where a token may be fetched: pure.
//!
//! Source: RFC 9110, section 11.6.1; distribution's token specification.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use reqwest::Url;

/// A header longer than this is none of a registry's.
const CHALLENGE_BYTES_MAX: usize = 4096;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of somebody's.
    Bearer {
        /// Whose.
        realm: String,
        /// For whom; empty when it is not said.
        service: String,
        /// What it must allow; empty when it is not said.
        scope: String,
    },
    /// The credentials themselves.
    Basic,
}

impl Challenge {
    /// The first that this registry understands.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| Self::parse(value.to_str().ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let text = text.trim();
        let (scheme, parameters) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (String::new(), String::new(), String::new());
        let mut rest = parameters;
        while let Some((name, value, after)) = parameter(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = value,
                "service" => service = value,
                "scope" => scope = value,
                _ => {}
            }
            rest = after;
        }
        (!realm.is_empty()).then_some(Self::Bearer { realm, service, scope })
    }
}

/// `name="value"` or `name=value` at the front, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (name, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(',').unwrap_or(rest.len());
        return Some((name.trim(), rest[..end].trim().to_owned(), &rest[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((name.trim(), value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

/// The address of a token, when its host may be asked: credentials go there.
pub(super) fn token_url(
    realm: &str,
    service: &str,
    scope: &str,
    upstream: &Url,
    allowed: &[String],
) -> Option<Url> {
    let mut url = Url::parse(realm).ok()?;
    let secure = url.scheme() == "https" || (url.scheme() == "http" && upstream.scheme() == "http");
    let known = authority(&url)?;
    let may = if allowed.is_empty() {
        authority(upstream)? == known
    } else {
        allowed.iter().any(|host| with_port(host, &url) == known)
    };
    if !secure || !may || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    {
        let mut query = url.query_pairs_mut();
        if !service.is_empty() {
            query.append_pair("service", service);
        }
        query.append_pair("scope", scope);
    }
    Some(url)
}

/// `host:port`, the port always said.
pub(super) fn authority(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// As [`authority`], of what a configuration names.
pub(super) fn with_port(host: &str, url: &Url) -> String {
    let default = if url.scheme() == "http" { 80 } else { 443 };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{default}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                   scope=\"repository:library/web:pull,push\",error=\"invalid_token\"";
        let bearer = |realm: &str, service: &str, scope: &str| {
            let text = |text: &str| text.to_owned();
            Some(Challenge::Bearer {
                realm: text(realm),
                service: text(service),
                scope: text(scope),
            })
        };
        let scope = "repository:library/web:pull,push";
        let expected = bearer("https://auth.docker.io/token", "registry.docker.io", scope);
        assert_eq!(Challenge::parse(hub), expected);
        assert_eq!(Challenge::parse("bearer realm=http://a/t , x=1"), bearer("http://a/t", "", ""));
        assert_eq!(Challenge::parse(r#"Bearer realm="a\"b""#), bearer("a\"b", "", ""));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for none in ["", "Bearer", "Bearer realm=\"\"", "Bearer realm=\"open", "Digest a=b"] {
            assert_eq!(Challenge::parse(none), None, "{none}");
        }
        assert_eq!(Challenge::parse(&format!("Bearer realm={}", "a".repeat(5000))), None);
    }

    #[test]
    fn credentials_go_to_allowed_hosts_only() {
        let asked = |realm: &str, upstream: &str, allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|&host| host.to_owned()).collect();
            let upstream = Url::parse(upstream).unwrap();
            token_url(realm, "s", "repository:a:pull", &upstream, &allowed).map(String::from)
        };
        let own = asked("https://hub.example/token", "https://hub.example", &[]);
        let expected = "https://hub.example/token?service=s&scope=repository%3Aa%3Apull";
        assert_eq!(own.as_deref(), Some(expected));
        for (realm, upstream, allowed) in [
            ("https://evil.example/token", "https://hub.example", &[][..]),
            ("https://hub.example:8443/token", "https://hub.example", &[]),
            ("http://hub.example/token", "https://hub.example", &["hub.example"]),
            ("https://me@hub.example/token", "https://hub.example", &[]),
            ("file:///etc/passwd", "http://hub.example", &["hub.example"]),
            // A list replaces the upstream's own host.
            ("https://hub.example/token", "https://hub.example", &["auth.example"]),
            ("not a url", "https://hub.example", &[]),
        ] {
            assert_eq!(asked(realm, upstream, allowed), None, "{realm}");
        }
        let other = asked("https://auth.example/t", "https://hub.example", &["auth.example"]);
        assert!(other.is_some());
        assert!(asked("http://127.0.0.1:9/t", "http://127.0.0.1:8", &["127.0.0.1:9"]).is_some());
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_the_parser(text in ".{0,200}") {
            let _any = Challenge::parse(&format!("Bearer {text}"));
            let _any = Challenge::parse(&text);
        }
    }
}
