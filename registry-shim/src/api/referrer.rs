//! Referrers: the manifests that name a subject, as an index.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::header::HeaderValue;
use longshore_proto::{Digest, RepositoryName, media_type};
use serde::Serialize;

use super::{Answer, ApiError, Call, OCI_FILTERS_APPLIED, json};
use crate::auth::Action;
use crate::storage::Referrer;

/// Longest list that is given.
const REFERRERS_MAX: usize = 4096;
/// Manifests that are looked for at once.
const READS_IN_FLIGHT_MAX: usize = 16;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Referrer>,
}

pub(super) async fn list(call: &Call<'_>, repository: &RepositoryName, subject: &str) -> Answer {
    call.authorize(Action::Pull, repository)?;
    let subject: Digest = subject.parse()?;
    let storage = call.storage(repository);
    let listed = storage.storage().referrers(repository, &subject, REFERRERS_MAX).await?;
    let present = |referrer: Referrer| async move {
        let manifest = storage.manifest(repository, &referrer.digest).await?;
        Ok::<_, ApiError>(manifest.map(|_| referrer))
    };
    let found: Vec<Option<Referrer>> =
        stream::iter(listed).map(present).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    let wanted = call.query.get("artifactType");
    let fits = |referrer: &Referrer| {
        wanted.as_ref().is_none_or(|wanted| *wanted == referrer.artifact_type)
    };
    let manifests = found.into_iter().flatten().filter(fits).collect();
    let index = Referrers { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    let mut response = json(call, media_type::OCI_INDEX, &index);
    if wanted.is_some() {
        let applied = HeaderValue::from_static("artifactType");
        response.headers_mut().insert(OCI_FILTERS_APPLIED, applied);
    }
    Ok(response)
}
