//! A registry to stand in front of: it counts what it is asked, and fails as it is told.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use longshore_proto::Digest;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::common::sha256;

/// Bytes of a body that are sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What it shows when it wants a token.
#[derive(Clone)]
pub(crate) struct Bearer {
    /// Where a token is to be had.
    pub(crate) realm: String,
    /// What it must be.
    pub(crate) token: String,
}

/// What it does wrong, or asks for.
#[derive(Clone, Default)]
pub(crate) struct Conduct {
    /// Answers every request so, with this `Retry-After`.
    pub(crate) status: Option<(u16, Option<u64>)>,
    /// Breaks the next bodies of blobs off after so many bytes.
    pub(crate) cut_after: Vec<usize>,
    /// Changes the last byte of blobs.
    pub(crate) corrupt: bool,
    /// Knows no ranges.
    pub(crate) whole_only: bool,
    /// Wants a token.
    pub(crate) bearer: Option<Bearer>,
    /// Sends reads of blobs there.
    pub(crate) redirect: Option<String>,
    /// Does not say digests in headers.
    pub(crate) no_digest: bool,
    /// Takes no push.
    pub(crate) refuse_push: bool,
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

impl Seen {
    fn of(request: &Request) -> Self {
        let text = |name| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        Self {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            range: text(RANGE),
            authorization: text(AUTHORIZATION),
        }
    }
}

#[derive(Default)]
struct Content {
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    tags: Vec<String>,
    uploads: HashSet<String>,
}

struct Inner {
    content: Mutex<Content>,
    conduct: Mutex<Conduct>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of any blob that may have been sent.
    gate: watch::Sender<usize>,
    address: SocketAddr,
}

/// The fake; clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Inner>);

impl Fake {
    /// On a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner {
            content: Mutex::default(),
            conduct: Mutex::default(),
            seen: Mutex::default(),
            gate: watch::Sender::new(usize::MAX),
            address: listener.local_addr().unwrap(),
        };
        let fake = Self(Arc::new(inner));
        let router = axum::Router::new().fallback(answer).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub(crate) fn authority(&self) -> String {
        self.0.address.to_string()
    }

    pub(crate) fn conduct(&self, change: impl FnOnce(&mut Conduct)) {
        change(&mut self.0.conduct.lock().unwrap());
    }

    /// No blob gives more bytes than that, until the next call.
    pub(crate) fn release(&self, bytes: usize) {
        self.0.gate.send_replace(bytes);
    }

    pub(crate) fn put_blob(&self, blob: &[u8]) -> Digest {
        let digest = sha256(blob);
        let blob = Bytes::copy_from_slice(blob);
        self.0.content.lock().unwrap().blobs.insert(digest.to_string(), blob);
        digest
    }

    /// Under its digest and under `tag`.
    pub(crate) fn put_manifest(
        &self,
        name: &str,
        tag: &str,
        media_type: &str,
        content: &str,
    ) -> Digest {
        let digest = sha256(content.as_bytes());
        let manifest = (media_type.to_owned(), Bytes::copy_from_slice(content.as_bytes()));
        let mut kept = self.0.content.lock().unwrap();
        kept.manifests.insert(format!("{name}/{digest}"), manifest.clone());
        kept.manifests.insert(format!("{name}/{tag}"), manifest);
        kept.tags.push(tag.to_owned());
        digest
    }

    pub(crate) fn forget_manifests(&self) {
        self.0.content.lock().unwrap().manifests.clear();
    }

    pub(crate) fn has_manifest(&self, name: &str, reference: &str) -> bool {
        self.0.content.lock().unwrap().manifests.contains_key(&format!("{name}/{reference}"))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.0.content.lock().unwrap().blobs.get(&digest.to_string()).cloned()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Requests of that method whose path holds `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|s| s.method == method && s.path.contains(part)).count()
    }

    fn blob_response(&self, request: &Request, digest: &str, conduct: &Conduct) -> Response {
        let Some(mut blob) = self.0.content.lock().unwrap().blobs.get(digest).cloned() else {
            return status(404);
        };
        if conduct.corrupt {
            let mut changed = blob.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            blob = changed.into();
        }
        let size = blob.len();
        let from = request.headers().get(RANGE).filter(|_| !conduct.whole_only).map(|range| {
            let range = range.to_str().unwrap();
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        });
        let mut response = Response::builder();
        if let Some(from) = from {
            let range = format!("bytes {from}-{}/{size}", size - 1);
            response = response.status(206).header(CONTENT_RANGE, range);
        }
        let from: usize = from.unwrap_or(0);
        let response = response.header(CONTENT_LENGTH, size - from);
        if request.method() == "HEAD" {
            return response.body(Body::empty()).unwrap();
        }
        let mut coming = self.0.conduct.lock().unwrap();
        let cut = (!coming.cut_after.is_empty()).then(|| coming.cut_after.remove(0));
        drop(coming);
        let gate = self.0.gate.subscribe();
        let end = cut.map_or(size, |cut| (from + cut).min(size));
        let pieces = stream::try_unfold((from, gate), move |(at, mut gate)| {
            let blob = blob.clone();
            async move {
                if at >= end {
                    if end == size {
                        return Ok(None);
                    }
                    // What was said before leaves first.
                    tokio::task::yield_now().await;
                    return Err(std::io::Error::other("cut"));
                }
                let open = *gate.wait_for(|open| *open > at).await.unwrap();
                let next = end.min(open).min(at + PIECE_BYTES);
                Ok(Some((blob.slice(at..next), (next, gate))))
            }
        });
        response.body(Body::from_stream(pieces)).unwrap()
    }

    async fn push(&self, request: Request, path: &str) -> Response {
        let (method, query) =
            (request.method().clone(), request.uri().query().unwrap_or("").to_owned());
        let media_type =
            request.headers().get(CONTENT_TYPE).map(|v| v.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        if method == "POST" {
            let location = format!("/v2/upload/{}", rand::random::<u64>());
            self.0.content.lock().unwrap().uploads.insert(location.clone());
            return Response::builder()
                .status(202)
                .header(LOCATION, location)
                .body(Body::empty())
                .unwrap();
        }
        let mut content = self.0.content.lock().unwrap();
        if content.uploads.remove(path) {
            let digest = query.strip_prefix("digest=").unwrap().replace("%3A", ":");
            assert_eq!(digest, sha256(&body).to_string());
            content.blobs.insert(digest, body);
            return status(201);
        }
        let (name, reference) =
            path.strip_prefix("/v2/").unwrap().split_once("/manifests/").unwrap();
        let manifest = (media_type.unwrap_or_default(), body.clone());
        content.manifests.insert(format!("{name}/{reference}"), manifest.clone());
        content.manifests.insert(format!("{name}/{}", sha256(&body)), manifest);
        status(201)
    }
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let seen = Seen::of(&request);
    fake.0.seen.lock().unwrap().push(seen.clone());
    let conduct = fake.0.conduct.lock().unwrap().clone();
    if let Some((code, retry_after)) = conduct.status {
        let response = Response::builder().status(code);
        let response = match retry_after {
            Some(seconds) => response.header("retry-after", seconds),
            None => response,
        };
        return response.body(Body::empty()).unwrap();
    }
    if path == "/token" {
        let token = conduct.bearer.map(|bearer| bearer.token).unwrap_or_default();
        return Response::new(Body::from(format!("{{\"token\":\"{token}\",\"expires_in\":300}}")));
    }
    if let Some(bearer) = &conduct.bearer
        && seen.authorization.as_deref() != Some(&format!("Bearer {}", bearer.token))
    {
        let challenge = format!("Bearer realm=\"{}\",service=\"fake\"", bearer.realm);
        let response = Response::builder().status(401).header("www-authenticate", challenge);
        return response.body(Body::empty()).unwrap();
    }
    if request.method() == "POST" || request.method() == "PUT" {
        if conduct.refuse_push {
            let body = r#"{"errors":[{"code":"MANIFEST_INVALID","message":"not like this"}]}"#;
            return Response::builder().status(400).body(Body::from(body)).unwrap();
        }
        return fake.push(request, &path).await;
    }
    if let Some((_, digest)) = path.split_once("/blobs/") {
        if let (Some(elsewhere), "GET") = (&conduct.redirect, request.method().as_str()) {
            let location = format!("{elsewhere}{path}");
            let response = Response::builder().status(307).header(LOCATION, location);
            return response.body(Body::empty()).unwrap();
        }
        return fake.blob_response(&request, digest, &conduct);
    }
    let content = fake.0.content.lock().unwrap();
    if let Some(rest) = path.strip_suffix("/tags/list") {
        let name = rest.strip_prefix("/v2/").unwrap();
        let list = serde_json::json!({ "name": name, "tags": content.tags });
        return Response::new(Body::from(list.to_string()));
    }
    let Some((name, reference)) =
        path.strip_prefix("/v2/").and_then(|p| p.split_once("/manifests/"))
    else {
        return status(404);
    };
    let Some((media_type, manifest)) = content.manifests.get(&format!("{name}/{reference}")) else {
        return status(404);
    };
    let mut response =
        Response::builder().header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, manifest.len());
    if !conduct.no_digest {
        response = response.header("docker-content-digest", sha256(manifest).to_string());
    }
    let head = request.method() == "HEAD";
    response.body(if head { Body::empty() } else { Body::from(manifest.clone()) }).unwrap()
}
