//! Referrers: the manifests that name a subject, as an index, in pages.
//!
//! Source: distribution-spec 1.1.1, "Listing Referrers". A page is bounded in descriptors and in
//! bytes, for annotations may be as long as a manifest.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Response;
use http::header::{HeaderValue, LINK};
use longshore_proto::{Digest, MANIFEST_BYTES_MAX, RepositoryName, media_type};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::{
    Answer, ApiError, Body, Call, OCI_FILTERS_APPLIED, header_value, json, mark_stale, upstream,
};
use crate::auth::Action;
use crate::storage::Referrer;

/// Manifests that are looked for at once.
const READS_IN_FLIGHT_MAX: usize = 16;
/// Digests that are taken from the store's list at once.
const SCAN_ITEMS: usize = 256;
/// Digests that are looked at for one page: with a filter most may not fit.
const SCAN_ITEMS_MAX: usize = 4096;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Referrer>,
}

/// One page of a list, as it grows.
struct Growing {
    manifests: Vec<Referrer>,
    bytes: usize,
    looked_at: usize,
    /// The last digest that was looked at.
    last: Option<Digest>,
}

pub(super) async fn list(call: &Call<'_>, repository: &RepositoryName, subject: &str) -> Answer {
    call.authorize(Action::Pull, repository)?;
    let subject: Digest = subject.parse()?;
    let items = call.page_items()?;
    let last = call.query.get("last").map(|last| last.parse()).transpose()?;
    let wanted = call.query.get("artifactType");
    let mut stale = false;
    if let Some(fronted) = call.fronted(repository) {
        match upstream::referrers(&fronted, &subject).await? {
            Some(mut listed) => {
                let wanted = wanted.as_deref();
                listed.retain(|one| wanted.is_none_or(|wanted| wanted == one.artifact_type));
                return Ok(index(call, listed, wanted.is_some()));
            }
            None => stale = true,
        }
    }
    let (page, more) = page(call, repository, &subject, last, wanted.as_deref(), items).await?;
    let (manifests, last) = (page.manifests, page.last);
    let mut response = index(call, manifests, wanted.is_some());
    if stale || call.storage(repository).storage().may_be_stale() {
        mark_stale(&mut response);
    }
    if let (true, Some(last)) = (more && items > 0, last) {
        let filter = wanted.map(|wanted| {
            format!("&artifactType={}", utf8_percent_encode(&wanted, NON_ALPHANUMERIC))
        });
        let link = format!(
            "</v2/{repository}/referrers/{subject}?n={items}&last={last}{}>; rel=\"next\"",
            filter.unwrap_or_default()
        );
        response.headers_mut().insert(LINK, header_value(link));
    }
    Ok(response)
}

fn index(call: &Call<'_>, manifests: Vec<Referrer>, filtered: bool) -> Response<Body> {
    let index = Referrers { schema_version: 2, media_type: media_type::OCI_INDEX, manifests };
    let mut response = json(call, media_type::OCI_INDEX, &index);
    if filtered {
        let applied = HeaderValue::from_static("artifactType");
        response.headers_mut().insert(OCI_FILTERS_APPLIED, applied);
    }
    response
}

/// The next descriptors after `last` that fit, and whether there may be others.
async fn page(
    call: &Call<'_>,
    repository: &RepositoryName,
    subject: &Digest,
    last: Option<Digest>,
    wanted: Option<&str>,
    items: usize,
) -> Result<(Growing, bool), ApiError> {
    let mut page = Growing { manifests: Vec::new(), bytes: 0, looked_at: 0, last };
    let storage = call.storage(repository).storage();
    loop {
        let digests =
            storage.referrers(repository, subject, page.last.as_ref(), SCAN_ITEMS).await?;
        let mut found = stream::iter(digests.items)
            .map(|digest| async move {
                Ok::<_, ApiError>((digest, present(call, repository, subject, &digest).await?))
            })
            .buffered(READS_IN_FLIGHT_MAX);
        while let Some((digest, referrer)) = found.try_next().await? {
            if page.is_full(items) {
                return Ok((page, true));
            }
            page.look_at(digest, referrer, wanted);
        }
        if !digests.more {
            return Ok((page, false));
        }
    }
}

/// The descriptor, where its manifest is still there.
async fn present(
    call: &Call<'_>,
    repository: &RepositoryName,
    subject: &Digest,
    digest: &Digest,
) -> Result<Option<Referrer>, ApiError> {
    let storage = call.storage(repository);
    if storage.manifest(repository, digest).await?.is_none() {
        return Ok(None);
    }
    Ok(storage.storage().referrer(repository, subject, digest).await?)
}

impl Growing {
    fn is_full(&self, items: usize) -> bool {
        self.manifests.len() >= items
            || self.bytes >= MANIFEST_BYTES_MAX
            || self.looked_at >= SCAN_ITEMS_MAX
    }

    fn look_at(&mut self, digest: Digest, referrer: Option<Referrer>, wanted: Option<&str>) {
        self.last = Some(digest);
        self.looked_at += 1;
        let fits =
            |referrer: &Referrer| wanted.is_none_or(|wanted| wanted == referrer.artifact_type);
        let Some(referrer) = referrer.filter(fits) else { return };
        let annotations = &referrer.annotations;
        self.bytes += annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.manifests.push(referrer);
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;

    use super::*;

    fn referrer(annotation_bytes: usize) -> Referrer {
        Referrer {
            media_type: "m".into(),
            digest: Digest::of(Algorithm::Sha256, b""),
            size: 1,
            artifact_type: "a".into(),
            annotations: [("k".to_owned(), "v".repeat(annotation_bytes))].into(),
        }
    }

    #[test]
    fn a_page_is_full_by_number_by_bytes_and_by_work() {
        let empty = || Growing { manifests: vec![], bytes: 0, looked_at: 0, last: None };
        let digest = Digest::of(Algorithm::Sha256, b"");
        let mut page = empty();
        page.look_at(digest, Some(referrer(1)), None);
        assert!(page.is_full(1) && !page.is_full(2));
        page.look_at(digest, Some(referrer(MANIFEST_BYTES_MAX)), Some("other"));
        assert!(!page.is_full(2), "what does not fit the filter has no bytes");
        page.look_at(digest, Some(referrer(MANIFEST_BYTES_MAX)), Some("a"));
        assert!(page.is_full(1000));
        let mut page = empty();
        for _ in 0..SCAN_ITEMS_MAX {
            page.look_at(digest, None, None);
        }
        assert!(page.is_full(1000) && page.manifests.is_empty());
    }
}
