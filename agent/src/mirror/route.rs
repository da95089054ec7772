//! Which content a request means: method, path, `ns` and `Range`, read into types.
//!
//! Source: OCI distribution-spec 1.1, "Pull"; `ns` as containerd adds it.

use http::header::RANGE;
use http::{Method, Request};
use longshore_proto::{Digest, ErrorCode, InvalidName, Reference, RepositoryName, RequestedRange};

use crate::pull::{Place, Registries};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Whether this is a registry at all.
    Base,
    /// A manifest.
    Manifest(Place, Reference),
    /// A blob, or a part of it.
    Blob(Place, Digest, Option<RequestedRange>),
}

/// Why a request means nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

/// Reads a request.
pub(super) fn read<B>(request: &Request<B>, registries: &Registries) -> Result<Asked, Refused> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(refused(ErrorCode::Unsupported, "a mirror only serves pulls"));
    }
    let path = request.uri().path().replace("%3A", ":").replace("%3a", ":");
    let rest = match path.as_str() {
        "/v2" | "/v2/" => return Ok(Asked::Base),
        path => path.strip_prefix("/v2/").ok_or_else(unknown)?,
    };
    // Repositories may be named `a/blobs/b`: the last of the two words counts.
    let (name, kind, what) = split(rest).ok_or_else(unknown)?;
    let repository: RepositoryName = name.parse().map_err(|e| bad_name(&e))?;
    let namespace = namespace(request.uri().query());
    let place = registries
        .place(namespace.as_deref(), repository)
        .ok_or_else(|| refused(ErrorCode::NameUnknown, "this registry is not mirrored"))?;
    if kind == "manifests" {
        return Ok(Asked::Manifest(place, what.parse().map_err(|e| bad_name(&e))?));
    }
    let digest = what
        .parse()
        .map_err(|e: longshore_proto::InvalidDigest| refused(ErrorCode::DigestInvalid, e))?;
    let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
    Ok(Asked::Blob(place, digest, range.and_then(RequestedRange::parse)))
}

fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, what) = path.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    matches!(kind, "manifests" | "blobs").then_some((name, kind, what))
}

fn namespace(query: Option<&str>) -> Option<String> {
    let url = reqwest::Url::parse(&format!("http://mirror/?{}", query?)).ok()?;
    let value = url.query_pairs().find(|(key, _)| key == "ns")?.1.into_owned();
    (!value.is_empty()).then_some(value)
}

fn bad_name(error: &InvalidName) -> Refused {
    let code = match error {
        InvalidName::Repository | InvalidName::NoHost => ErrorCode::NameInvalid,
        InvalidName::Tag => ErrorCode::TagInvalid,
        InvalidName::Digest(_) => ErrorCode::DigestInvalid,
    };
    refused(code, error)
}

fn unknown() -> Refused {
    refused(ErrorCode::NameUnknown, "no such path in a mirror")
}

fn refused(code: ErrorCode, message: impl ToString) -> Refused {
    Refused { code, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str) -> Result<Asked, ErrorCode> {
        let names = ["10.0.0.1:5000", "docker.io"].map(|name| name.parse().unwrap());
        let registries = Registries::new(names.to_vec());
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        read(&request, &registries).map_err(|refused| refused.code)
    }

    fn manifest(place: Place, reference: &str) -> Result<Asked, ErrorCode> {
        Ok(Asked::Manifest(place, reference.parse().unwrap()))
    }

    #[test]
    fn reads_what_containerd_asks() {
        let web = Place::at_origin("apps/web".parse().unwrap());
        assert_eq!(asked("GET", "/v2/"), Ok(Asked::Base));
        let uri = "/v2/apps/web/manifests/v1?ns=10.0.0.1%3A5000";
        assert_eq!(asked("HEAD", uri), manifest(web.clone(), "v1"));
        assert_eq!(asked("GET", "/v2/apps/web/manifests/v1"), manifest(web, "v1"));
        let hub = Place::at_origin("library/debian".parse().unwrap());
        let uri = "/v2/library/debian/manifests/12?ns=docker.io";
        assert_eq!(asked("GET", uri), manifest(hub, "12"));
        let digest = format!("sha256%3A{}", "a".repeat(64));
        let blob = asked("GET", &format!("/v2/a/blobs/b/blobs/{digest}"));
        assert!(
            matches!(blob, Ok(Asked::Blob(place, ..)) if place.repository().as_str() == "a/blobs/b")
        );
    }

    #[test]
    fn refuses_the_rest_by_its_code() {
        for (uri, code) in [
            ("/v2/a/manifests/v1?ns=evil.example", ErrorCode::NameUnknown),
            ("/v2/A/manifests/v1", ErrorCode::NameInvalid),
            ("/v2/a/../b/manifests/v1", ErrorCode::NameInvalid),
            ("/v2/a/manifests/.v1", ErrorCode::TagInvalid),
            ("/v2/a/manifests/sha256:00", ErrorCode::DigestInvalid),
            ("/v2/a/blobs/sha256:zz", ErrorCode::DigestInvalid),
            ("/v2/a/blobs/v1", ErrorCode::DigestInvalid),
            ("/v2/a/tags/list", ErrorCode::NameUnknown),
            ("/metrics", ErrorCode::NameUnknown),
        ] {
            assert_eq!(asked("GET", uri), Err(code), "{uri}");
        }
        assert_eq!(asked("POST", "/v2/a/blobs/uploads/"), Err(ErrorCode::Unsupported));
    }
}
