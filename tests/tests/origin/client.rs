//! A small client of the distribution API, which follows no redirect by itself.

use longshore_proto::{Algorithm, Digest};
use longshore_tests::testkit::error::LabError;
use longshore_tests::testkit::{Origin, Result};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, RequestBuilder, Response};

/// Talks to one registry.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    pub(crate) fn new(origin: &Origin) -> Result<Self> {
        Self::of(origin.url())
    }

    /// Of any registry in clear text.
    pub(crate) fn of(url: String) -> Result<Self> {
        let policy = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(policy).build();
        Ok(Self { http: http.map_err(|error| lost(&error))?, url })
    }

    /// A request; `path` may also be a whole URL, as `Location` gives them.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let absolute = path.starts_with("http");
        let url = if absolute { path.to_owned() } else { format!("{}{path}", self.url) };
        self.http.request(method, url)
    }

    pub(crate) async fn send(&self, method: Method, path: &str) -> Result<Response> {
        self.request(method, path).send().await.map_err(|error| lost(&error))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response> {
        self.send(Method::GET, path).await
    }

    /// POST, a PATCH for every part but the last, and a PUT with the last.
    pub(crate) async fn push_blob(&self, repository: &str, parts: &[&[u8]]) -> Result<Digest> {
        let digest = Digest::of(Algorithm::Sha256, &parts.concat());
        let begun = self.send(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).await?;
        expect(&begun, 202)?;
        let mut location = header(&begun, LOCATION.as_str())?;
        let (last, first) = parts.split_last().expect("a blob has at least one part");
        for part in first {
            let patch = self.request(Method::PATCH, &location).body(part.to_vec()).send().await;
            let patched = patch.map_err(|error| lost(&error))?;
            expect(&patched, 202)?;
            location = header(&patched, LOCATION.as_str())?;
        }
        let put = self.request(Method::PUT, &format!("{location}?digest={digest}"));
        let put = put.body(last.to_vec()).send().await.map_err(|error| lost(&error))?;
        expect(&put, 201)?;
        Ok(digest)
    }

    /// A manifest with nothing but an empty configuration, told apart by `text`; the answer.
    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        text: &str,
    ) -> Result<(Digest, Response)> {
        let config = self.push_blob(repository, &[b"{}"]).await?;
        let content = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[],"annotations":{{"text":"{text}"}}}}"#
        );
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let put = self.request(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"));
        let put = put.header(CONTENT_TYPE, MANIFEST).body(content).send().await;
        Ok((digest, put.map_err(|error| lost(&error))?))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An exchange that broke off.
pub(crate) fn lost(error: &reqwest::Error) -> LabError {
    LabError::Unexpected(error.to_string())
}

pub(crate) fn header(response: &Response, name: &str) -> Result<String> {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok());
    value.map(str::to_owned).ok_or_else(|| LabError::Unexpected(format!("no {name}: {response:?}")))
}

fn expect(response: &Response, status: u16) -> Result<()> {
    if response.status().as_u16() == status {
        return Ok(());
    }
    Err(LabError::Unexpected(format!("{status} was expected: {response:?}")))
}
