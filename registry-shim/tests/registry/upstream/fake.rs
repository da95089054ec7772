//! A registry to stand in front of: it counts what it is asked, and fails as it is told.

mod blob;
mod upload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use longshore_proto::Digest;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::common::sha256;

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
    /// Does not say how long blobs are.
    pub(crate) no_length: bool,
    /// Says that blobs are so much longer than they are.
    pub(crate) longer: usize,
    /// Answers every PATCH so.
    pub(crate) patch_status: Option<u16>,
    /// Where uploads go, instead of here.
    pub(crate) uploads_at: Option<String>,
    /// Sends the bytes of uploads there.
    pub(crate) upload_redirect: Option<String>,
    /// Does not answer the request that closes an upload.
    pub(crate) never_closes: bool,
    /// Bytes that its token server adds to a token.
    pub(crate) token_padding: usize,
    /// The challenge for credentials themselves, and what they must be.
    pub(crate) basic: Option<String>,
    /// Answers the next requests so, each once.
    pub(crate) next: Vec<(u16, Option<u64>)>,
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
    /// By location.
    uploads: HashMap<String, Vec<u8>>,
    /// By the path of the list: a page's body, and the path of the next.
    pages: HashMap<String, (String, Option<String>)>,
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

    fn next_conduct(&self) -> (Conduct, Option<(u16, Option<u64>)>) {
        let mut conduct = self.0.conduct.lock().unwrap();
        let next = (!conduct.next.is_empty()).then(|| conduct.next.remove(0));
        (conduct.clone(), next)
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

    /// Other bytes than the digest says.
    pub(crate) fn replace_blob(&self, digest: &Digest, blob: &[u8]) {
        let blob = Bytes::copy_from_slice(blob);
        self.0.content.lock().unwrap().blobs.insert(digest.to_string(), blob);
    }

    /// A page of a list, which names the next one.
    pub(crate) fn put_page(&self, path: &str, body: String, next: Option<&str>) {
        let page = (body, next.map(str::to_owned));
        self.0.content.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Requests of that method whose path holds `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|s| s.method == method && s.path.contains(part)).count()
    }
}

fn status(code: u16) -> Response {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let seen = Seen::of(&request);
    fake.0.seen.lock().unwrap().push(seen.clone());
    let (conduct, next) = fake.next_conduct();
    if let Some((code, retry_after)) = next.or(conduct.status) {
        let response = Response::builder().status(code);
        let response = match retry_after {
            Some(seconds) => response.header("retry-after", seconds),
            None => response,
        };
        return response.body(Body::empty()).unwrap();
    }
    if path == "/token" {
        let mut token = conduct.bearer.map(|bearer| bearer.token).unwrap_or_default();
        token.push_str(&"x".repeat(conduct.token_padding));
        return Response::new(Body::from(format!("{{\"token\":\"{token}\",\"expires_in\":300}}")));
    }
    if let Some(bearer) = &conduct.bearer
        && seen.authorization.as_deref() != Some(&format!("Bearer {}", bearer.token))
    {
        let challenge = format!("Bearer realm=\"{}\",service=\"fake\"", bearer.realm);
        let response = Response::builder().status(401).header("www-authenticate", challenge);
        return response.body(Body::empty()).unwrap();
    }
    if let Some(basic) = &conduct.basic
        && seen.authorization.as_ref() != Some(basic)
    {
        let response = Response::builder().status(401).header("www-authenticate", "Basic realm=x");
        return response.body(Body::empty()).unwrap();
    }
    if ["POST", "PUT", "PATCH", "DELETE"].contains(&request.method().as_str()) {
        if conduct.refuse_push {
            let body = r#"{"errors":[{"code":"MANIFEST_INVALID","message":"not like this"}]}"#;
            return Response::builder().status(400).body(Body::from(body)).unwrap();
        }
        return fake.push(request, &path, &conduct).await;
    }
    if let Some(known) = fake.0.content.lock().unwrap().uploads.get(&path) {
        let range = format!("0-{}", known.len().saturating_sub(1));
        return Response::builder().status(204).header(RANGE, range).body(Body::empty()).unwrap();
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
    if let Some((body, next)) = content.pages.get(&seen.path) {
        let response = Response::builder();
        let response = match next {
            Some(next) => response.header("link", format!("<{next}>; rel=\"next\"")),
            None => response,
        };
        return response.body(Body::from(body.clone())).unwrap();
    }
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
