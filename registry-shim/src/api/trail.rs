//! What a request leaves in the audit log. Reads leave nothing and cost nothing.

use http::{HeaderMap, StatusCode};
use longshore_proto::RepositoryName;

use super::CONTENT_DIGEST;
use super::route::{Query, Route};
use crate::auth::Actor;
use crate::auth::audit::Entry;
use crate::registry::Registry;
use crate::serve::Peer;

/// Longest reference that is noted: a path may hold anything.
const REFERENCE_CHARS_MAX: usize = 256;

/// A request on its way; the gate and the handlers add what they learn.
#[derive(Debug, Default)]
pub(super) struct Trail {
    write: Option<Box<Write>>,
    /// Once the gate knows it.
    pub(super) actor: Option<Actor>,
}

#[derive(Debug)]
struct Write {
    action: &'static str,
    repository: Option<RepositoryName>,
    reference: String,
    /// Only a refusal is noted: nothing is written yet.
    begins: bool,
}

impl Trail {
    pub(super) fn begin(route: &Route<'_>, method: &str, query: Query<'_>) -> Self {
        if matches!((method, route), ("GET" | "HEAD", route) if !matches!(route, Route::Token)) {
            return Self::default();
        }
        let is_digest = |reference: &str| reference.contains(':');
        let (action, repository, reference, begins) = match (method, route) {
            (_, Route::Token) => ("issue_token", None, "", false),
            ("PUT", Route::Manifest(name, reference)) => {
                ("push_manifest", Some(name), &**reference, false)
            }
            ("DELETE", Route::Manifest(name, reference)) if is_digest(reference) => {
                ("delete_manifest", Some(name), &**reference, false)
            }
            ("DELETE", Route::Manifest(name, tag)) => ("delete_tag", Some(name), &**tag, false),
            ("DELETE", Route::Blob(name, digest)) => ("delete_blob", Some(name), &**digest, false),
            ("POST", Route::Uploads(name)) => {
                let whole = query.get("digest").is_some() || query.get("mount").is_some();
                ("push_blob", Some(name), "", !whole)
            }
            ("PUT", Route::Upload(name, id)) => ("push_blob", Some(name), *id, false),
            ("PATCH", Route::Upload(name, id)) => ("push_blob", Some(name), *id, true),
            ("DELETE", Route::Upload(name, id)) => ("cancel_upload", Some(name), *id, true),
            _ => return Self::default(),
        };
        let write = Write {
            action,
            repository: repository.cloned(),
            reference: reference.chars().take(REFERENCE_CHARS_MAX).collect(),
            begins,
        };
        Self { write: Some(Box::new(write)), actor: None }
    }

    /// A token's id, when one was given out.
    pub(super) fn names(&mut self, reference: &str) {
        if let Some(write) = &mut self.write {
            reference.clone_into(&mut write.reference);
        }
    }

    /// Whether there is anything to note.
    pub(super) const fn is_noted(&self) -> bool {
        self.write.is_some()
    }

    /// Notes how it ended.
    pub(super) async fn end(
        self,
        registry: &Registry,
        peer: &Peer,
        query: Query<'_>,
        request_id: &str,
        status: StatusCode,
        answered: &HeaderMap,
    ) {
        let Some(write) = self.write else { return };
        let outcome = match status {
            status if status.is_success() => "ok",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                "refused"
            }
            _ => "failed",
        };
        // A mount that finds nothing begins an upload.
        let begun = write.begins || status == StatusCode::ACCEPTED && write.action == "push_blob";
        if begun && outcome != "refused" {
            return;
        }
        let mounted = query.get("mount").is_some() && status == StatusCode::CREATED;
        let digest = answered.get(CONTENT_DIGEST);
        let actor = self.actor.as_ref().map_or_else(|| "unknown".to_owned(), Actor::label);
        let entry = Entry {
            actor: &actor,
            action: if mounted { "mount" } else { write.action },
            repository: write.repository.as_ref().map_or("", RepositoryName::as_str),
            reference: &write.reference,
            digest: digest.and_then(|digest| digest.to_str().ok()).unwrap_or_default(),
            outcome,
            status: status.as_u16(),
            client: peer.address.ip().to_canonical(),
            request_id,
        };
        registry.audit.record(&entry).await;
        if write.action == "push_manifest" && outcome == "ok" && !write.reference.contains(':') {
            registry.audit.record(&Entry { action: "move_tag", ..entry }).await;
        }
    }
}
