//! An image as docker pushes it: nothing is sent that is there, and what another repository has is
//! mounted.

use std::time::Duration;

use longshore_proto::{Algorithm, Digest};
use longshore_tests::testkit::Result;
use longshore_tests::testkit::wait::{Seen, until};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Method, RequestBuilder, Response};

use crate::client::{Client, header, lost};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A registry that says "later" while a collection is at work means less than this.
const LATER: Duration = Duration::from_secs(120);

/// What was acknowledged.
#[derive(Debug)]
pub(super) struct Image {
    repository: String,
    digest: Digest,
    blobs: Vec<Vec<u8>>,
}

/// Bytes that are told apart by `text`.
pub(super) fn content(bytes: usize, text: &str) -> Vec<u8> {
    let mut content = text.as_bytes().to_vec();
    content.resize(bytes.max(content.len()), b'.');
    content
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Sends until the answer is not "later".
async fn send(what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response> {
    until(what, LATER, async || {
        let answer = request().send().await.map_err(|error| lost(&error))?;
        let later = answer.status().as_u16() == 503;
        Ok(if later { Seen::NotYet(format!("{answer:?}")) } else { Seen::Yes(answer) })
    })
    .await
}

impl Image {
    /// Pushes it with a configuration of its own; layers may be mounted from `from`.
    pub(super) async fn push(
        client: &Client,
        repository: &str,
        from: &str,
        layers: &[Vec<u8>],
    ) -> Result<Self> {
        let config = content(0, &format!("{{\"repository\":\"{repository}\"}}"));
        let blobs: Vec<Vec<u8>> = [&[config], layers].concat();
        let mut described = Vec::new();
        for blob in &blobs {
            push_blob(client, repository, from, blob).await?;
            let (digest, size) = (digest(blob), blob.len());
            described.push(format!(
                r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#
            ));
        }
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
            described[0],
            described[1..].join(",")
        );
        let path = format!("/v2/{repository}/manifests/v1");
        let put = send("a manifest", || {
            let put = client.request(Method::PUT, &path).header(CONTENT_TYPE, MANIFEST);
            put.body(manifest.clone())
        });
        let put = put.await?;
        assert_eq!(put.status(), 201, "{repository}: {}", put.text().await.unwrap_or_default());
        let digest = digest(manifest.as_bytes());
        Ok(Self { repository: repository.to_owned(), digest, blobs })
    }

    /// Digests of its blobs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.blobs.iter().map(|blob| digest(blob))
    }

    /// Its manifest goes, and its tag with it.
    pub(super) async fn delete(&self, client: &Client) -> Result<()> {
        let path = format!("/v2/{}/manifests/{}", self.repository, self.digest);
        let deleted = client.send(Method::DELETE, &path).await?;
        assert_eq!(deleted.status(), 202);
        Ok(())
    }

    /// All of it can be pulled, whole.
    pub(super) async fn check(&self, client: &Client) -> Result<()> {
        let Self { repository, digest: manifest, blobs } = self;
        let named = client.get(&format!("/v2/{repository}/manifests/v1")).await?;
        assert_eq!(named.status(), 200, "{repository} lost its manifest");
        assert_eq!(header(&named, "docker-content-digest")?, manifest.to_string());
        for blob in blobs {
            let path = format!("/v2/{repository}/blobs/{}", digest(blob));
            let mut got = client.get(&path).await?;
            if got.status() == 307 {
                got = client.get(&header(&got, LOCATION.as_str())?).await?;
            }
            assert_eq!(got.status(), 200, "{path} of {repository}");
            let bytes = got.bytes().await.map_err(|error| lost(&error))?;
            assert!(bytes == *blob, "{path} is not what was pushed");
        }
        Ok(())
    }
}

/// Asks for it, mounts it, or uploads it.
async fn push_blob(client: &Client, repository: &str, from: &str, blob: &[u8]) -> Result<()> {
    let digest = digest(blob);
    let path = format!("/v2/{repository}/blobs/{digest}");
    let head = send("a HEAD", || client.request(Method::HEAD, &path)).await?;
    if matches!(head.status().as_u16(), 200 | 307) {
        return Ok(());
    }
    let path = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
    let begun = send("a mount", || client.request(Method::POST, &path)).await?;
    if begun.status() == 201 {
        return Ok(());
    }
    assert_eq!(begun.status(), 202, "{begun:?}");
    let upload = format!("{}?digest={digest}", header(&begun, LOCATION.as_str())?);
    let put = || client.request(Method::PUT, &upload).body(blob.to_vec());
    let put = send("an upload", put).await?;
    assert_eq!(put.status(), 201, "{repository}: {}", put.text().await.unwrap_or_default());
    Ok(())
}
