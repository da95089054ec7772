//! Pushes as the fake takes them: uploads keep what has come of them, and a new location after each
//! step.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt as _;

use super::*;

impl Fake {
    /// Bytes of uploads that have come and are not closed.
    pub(crate) fn uploaded(&self) -> usize {
        self.0.content.lock().unwrap().uploads.values().map(Vec::len).sum()
    }

    /// The last bytes of every upload are gone.
    pub(crate) fn lose_uploaded(&self, bytes: usize) {
        for upload in self.0.content.lock().unwrap().uploads.values_mut() {
            upload.truncate(upload.len() - bytes);
        }
    }

    /// Uploads that are open.
    pub(crate) fn open_uploads(&self) -> usize {
        self.0.content.lock().unwrap().uploads.len()
    }

    pub(super) async fn push(&self, request: Request, path: &str, conduct: &Conduct) -> Response {
        let method = request.method().to_string();
        if let (Some(elsewhere), "PUT" | "PATCH", true) =
            (&conduct.upload_redirect, method.as_str(), path.starts_with("/v2/upload/"))
        {
            let location = format!("{elsewhere}{}", request.uri());
            let response = Response::builder().status(307).header(LOCATION, location);
            return response.body(Body::empty()).unwrap();
        }
        match method.as_str() {
            "POST" => self.opened(Vec::new(), conduct),
            "DELETE" => {
                self.0.content.lock().unwrap().uploads.remove(path);
                status(204)
            }
            "PATCH" => {
                if let Some(code) = conduct.patch_status {
                    return status(code);
                }
                match self.take(request, path).await {
                    Some(bytes) => self.opened(bytes, conduct),
                    None => status(404),
                }
            }
            _ if path.starts_with("/v2/upload/") => {
                while self.0.conduct.lock().unwrap().never_closes {
                    tokio::task::yield_now().await;
                }
                let query = request.uri().query().unwrap_or("").to_owned();
                let Some(bytes) = self.take(request, path).await else { return status(404) };
                let digest = query.strip_prefix("digest=").unwrap().replace("%3A", ":");
                if digest != sha256(&bytes).to_string() {
                    return status(400);
                }
                self.0.content.lock().unwrap().blobs.insert(digest, bytes.into());
                status(201)
            }
            _ => self.manifest(request, path).await,
        }
    }

    /// A location of an upload that has those bytes.
    fn opened(&self, bytes: Vec<u8>, conduct: &Conduct) -> Response {
        let path = format!("/v2/upload/{}", rand::random::<u64>());
        self.0.content.lock().unwrap().uploads.insert(path.clone(), bytes);
        let location = format!("{}{path}", conduct.uploads_at.as_deref().unwrap_or_default());
        let response = Response::builder().status(202).header(LOCATION, location);
        response.body(Body::empty()).unwrap()
    }

    /// The upload with the request's bytes, which are there as they come.
    async fn take(&self, request: Request, path: &str) -> Option<Vec<u8>> {
        let mut body = request.into_body().into_data_stream();
        // One that this fake did not open was opened elsewhere.
        self.0.content.lock().unwrap().uploads.entry(path.to_owned()).or_default();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.ok()?;
            self.0.content.lock().unwrap().uploads.get_mut(path)?.extend_from_slice(&bytes);
        }
        self.0.content.lock().unwrap().uploads.remove(path)
    }

    async fn manifest(&self, request: Request, path: &str) -> Response {
        let media_type = request.headers().get(CONTENT_TYPE);
        let media_type = media_type.map(|value| value.to_str().unwrap().to_owned());
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let mut content = self.0.content.lock().unwrap();
        let (name, reference) =
            path.strip_prefix("/v2/").unwrap().split_once("/manifests/").unwrap();
        let manifest = (media_type.unwrap_or_default(), body.clone());
        content.manifests.insert(format!("{name}/{reference}"), manifest.clone());
        content.manifests.insert(format!("{name}/{}", sha256(&body)), manifest);
        status(201)
    }
}
