//! The registry under test, as a client knows it: a base URL. Nothing here knows whose it is.

use std::fmt::Write as _;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};

/// No request of the suite takes this long at a registry that is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// distribution-spec 1.1.1, "Error Codes": a body in JSON names one of these.
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// A repository of the registry under test; each test has its own.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    base: Url,
    client: Client,
    pub(crate) name: String,
}

/// An answer that has come whole.
#[derive(Debug)]
pub(crate) struct Answer {
    url: Url,
    status: u16,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Content that can be named by a descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Repository {
    /// A repository that nobody used before.
    pub(crate) fn new(base: &str) -> Self {
        static TLS: Once = Once::new();
        // TLS is not used here, yet the client wants to know by whom. Another may have been first.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let name = format!("conformance/r{:016x}", rand::random::<u64>());
        Self { base: base.parse().unwrap(), client, name }
    }

    /// Another repository of the same registry.
    pub(crate) fn other(&self) -> Self {
        self.named(&format!("conformance/o{:016x}", rand::random::<u64>()))
    }

    /// The repository of that name at the same registry.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// The same repository at another registry over the same store.
    pub(crate) fn moved(&self, base: &str) -> Self {
        Self { base: base.parse().unwrap(), ..self.clone() }
    }

    /// Any URL of the registry, relative to its root.
    pub(crate) fn root(&self, path: &str) -> Url {
        let base = self.base.as_str().trim_end_matches('/');
        format!("{base}{path}").parse().unwrap()
    }

    /// `/v2/<name>/…`
    pub(crate) fn url(&self, path: &str) -> Url {
        self.root(&format!("/v2/{}/{path}", self.name))
    }

    pub(crate) fn at(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.at(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        answer(self.request(Method::HEAD, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn get_url(&self, url: Url) -> Answer {
        answer(self.at(Method::GET, url)).await
    }

    /// Begins an upload; where it goes on.
    pub(crate) async fn begin(&self) -> Url {
        let begun = answer(self.request(Method::POST, "blobs/uploads/")).await;
        begun.is(202).location()
    }

    /// One chunk with its range.
    pub(crate) async fn patch(&self, upload: &Url, from: usize, bytes: &[u8]) -> Answer {
        let range = format!("{from}-{}", (from + bytes.len()).saturating_sub(1));
        let request = self.at(Method::PATCH, upload.clone());
        let request = request.header("content-type", "application/octet-stream");
        answer(request.header("content-range", range).body(bytes.to_vec())).await
    }

    /// The closing PUT.
    pub(crate) async fn close(&self, upload: &Url, digest: &str, bytes: &[u8]) -> Answer {
        answer(self.at(Method::PUT, with_query(upload, "digest", digest)).body(bytes.to_vec()))
            .await
    }

    /// POST, then PUT.
    pub(crate) async fn push(&self, content: &Content) {
        let upload = self.begin().await;
        self.close(&upload, &content.digest, &content.bytes).await.is(201);
    }

    pub(crate) async fn put_manifest(&self, reference: &str, manifest: &Content) -> Answer {
        let request = self.request(Method::PUT, &format!("manifests/{reference}"));
        let request = request.header("content-type", &manifest.media_type);
        answer(request.body(manifest.bytes.clone())).await
    }

    /// An image of its own under that tag.
    pub(crate) async fn push_image(&self, tag: &str) -> Content {
        let (config, layer) = (Content::config(), Content::layer(64));
        self.push(&config).await;
        self.push(&layer).await;
        let image = Content::image(&config, &[&layer]);
        self.put_manifest(tag, &image).await.is(201);
        image
    }

    /// The blob is here, whole.
    pub(crate) async fn has(&self, blob: &Content) {
        let got = self.get(&format!("blobs/{}", blob.digest)).await.is(200);
        assert!(got.body == blob.bytes, "{} is not what was pushed", blob.digest);
    }

    /// The blob is not here.
    pub(crate) async fn lacks(&self, digest: &str) {
        self.get(&format!("blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    }
}

/// Sends the request and takes the whole answer.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("the registry answers");
    whole(response).await.expect("the answer comes whole")
}

/// The answer with its body; `None` where that breaks off.
pub(crate) async fn whole(response: reqwest::Response) -> Option<Answer> {
    let (url, status) = (response.url().clone(), response.status().as_u16());
    let headers = response.headers().clone();
    let body = response.bytes().await.ok()?;
    Some(Answer { url, status, headers, body })
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.url, String::from_utf8_lossy(&self.body));
        self
    }

    /// Asserts that the status is one of several that the specification allows.
    #[track_caller]
    pub(crate) fn one_of(self, statuses: &[u16]) -> Self {
        assert!(statuses.contains(&self.status), "{}: {}", self.url, self.status);
        self
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Asserts a refusal in the specification's shape that names this code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let codes = self.is(status).codes();
        assert!(codes.1.iter().any(|found| found == code), "{:?} and not {code}", codes.1);
        codes.0
    }

    /// The codes of a refusal, whose shape is asserted.
    #[track_caller]
    pub(crate) fn codes(self) -> (Self, Vec<String>) {
        assert!(self.header("content-type").starts_with("application/json"), "{}", self.url);
        let body = self.json();
        let errors = body["errors"].as_array().expect("a list of errors");
        assert!(!errors.is_empty(), "no error in {body}");
        let code = |error: &Value| error["code"].as_str().expect("a code").to_owned();
        let codes: Vec<String> = errors.iter().map(code).collect();
        for code in &codes {
            assert!(self.status >= 500 || CODES.contains(&code.as_str()), "{code} is no code");
        }
        for error in errors {
            assert!(error["message"].is_null() || error["message"].is_string(), "{error}");
        }
        (self, codes)
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.url));
        value.to_str().expect("a header in ASCII")
    }

    /// The values of a header that may come several times.
    #[track_caller]
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("a header in ASCII")).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    #[track_caller]
    pub(crate) fn location(&self) -> Url {
        self.url.join(self.header("location")).expect("a location")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{}: {error}: {}", self.url, String::from_utf8_lossy(&self.body))
        })
    }

    /// `<url>; rel="next"`, resolved; none where the list ends.
    pub(crate) fn next(&self) -> Option<Url> {
        self.has("link").then(|| {
            let link = self.header("link");
            assert!(link.contains("rel=\"next\""), "{link}");
            let (url, _) = link.trim_start_matches('<').split_once('>').expect("<url>");
            self.url.join(url).expect("a URL")
        })
    }

    /// The last byte's position in `Range: 0-N`.
    #[track_caller]
    pub(crate) fn last_byte(&self) -> usize {
        let range = self.header("range");
        let end = range.strip_prefix("0-").unwrap_or_else(|| panic!("Range: {range}"));
        end.parse().unwrap_or_else(|_| panic!("Range: {range}"))
    }
}

impl Content {
    pub(crate) fn new(media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let (media_type, bytes) = (media_type.to_owned(), bytes.into());
        Self { digest: sha256(&bytes), media_type, bytes }
    }

    /// The same bytes under their SHA-512.
    pub(crate) fn in_sha512(self) -> Self {
        Self { digest: sha512(&self.bytes), ..self }
    }

    /// Bytes that nobody pushed before.
    pub(crate) fn layer(length: usize) -> Self {
        Self::new("application/vnd.oci.image.layer.v1.tar", noise(length))
    }

    pub(crate) fn config() -> Self {
        let id = rand::random::<u64>();
        let text =
            format!(r#"{{"architecture":"amd64","os":"linux","author":"{id:x}","rootfs":{{}}}}"#);
        Self::new("application/vnd.oci.image.config.v1+json", text)
    }

    /// image-spec 1.1, "Guidance for an Empty Descriptor".
    pub(crate) fn empty() -> Self {
        Self::new("application/vnd.oci.empty.v1+json", "{}")
    }

    pub(crate) fn image(config: &Self, layers: &[&Self]) -> Self {
        let layers: Vec<Value> = layers.iter().map(|layer| layer.descriptor()).collect();
        Self::manifest(serde_json::json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": config.descriptor(), "layers": layers,
        }))
    }

    pub(crate) fn index(manifests: &[&Self]) -> Self {
        let manifests: Vec<Value> = manifests.iter().map(|entry| entry.descriptor()).collect();
        Self::manifest(serde_json::json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests,
        }))
    }

    /// An artifact of that type about `subject`.
    pub(crate) fn artifact(artifact_type: &str, subject: &Self) -> Self {
        let empty = Self::empty().descriptor();
        Self::manifest(serde_json::json!({
            "schemaVersion": 2, "mediaType": IMAGE, "artifactType": artifact_type,
            "config": empty.clone(), "layers": [empty], "subject": subject.descriptor(),
            "annotations": {"id": format!("{:x}", rand::random::<u64>())},
        }))
    }

    /// A manifest of the type that it says itself.
    pub(crate) fn manifest(json: Value) -> Self {
        let media_type = json["mediaType"].as_str().expect("a manifest with its type").to_owned();
        Self::new(&media_type, json.to_string())
    }

    pub(crate) fn descriptor(&self) -> Value {
        serde_json::json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len(),
        })
    }
}

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The URL with one parameter more: those that it has are the registry's.
pub(crate) fn with_query(url: &Url, name: &str, value: &str) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair(name, value);
    url
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes that nobody sent before: an upload of known ones could hide that they were not kept.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = rand::random::<u64>() | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
