//! Tags: listed in byte order. A tag whose manifest was deleted is hidden.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use http::Response;
use http::header::LINK;
use longshore_proto::{ErrorCode, RepositoryName};
use serde::Serialize;

use super::{Answer, ApiError, Body, Call, header_value, json, mark_stale, upstream};
use crate::auth::Action;

/// Tags that are looked into at once.
const READS_IN_FLIGHT_MAX: usize = 16;

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<String>,
}

pub(super) async fn list(call: &Call<'_>, repository: &RepositoryName) -> Answer {
    call.authorize(Action::Pull, repository)?;
    let items = call.page_items()?;
    let last = call.query.get("last");
    let mut stale = false;
    if let Some(fronted) = call.fronted(repository) {
        match upstream::tags(call, &fronted, repository, items, last.as_deref()).await? {
            Some((tags, more)) => return Ok(upstreams(call, repository, tags, items, more)),
            None => stale = true,
        }
    }
    let storage = call.storage(repository).storage();
    if !storage.knows_repository(repository).await? {
        return Err(ApiError::new(ErrorCode::NameUnknown, "repository is unknown"));
    }
    let page = storage.tags(repository, last.as_deref(), items).await?;
    let next = page.more.then(|| page.items.last().cloned()).flatten();
    let shown = |tag: String| async move {
        Ok::<_, ApiError>(resolves(call, repository, &tag).await?.then_some(tag))
    };
    let found: Vec<Option<String>> =
        stream::iter(page.items).map(shown).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    let tags = Tags { name: repository.as_str(), tags: found.into_iter().flatten().collect() };
    let mut response = json(call, "application/json", &tags);
    if let Some(last) = next {
        let link = format!("</v2/{repository}/tags/list?n={items}&last={last}>; rel=\"next\"");
        response.headers_mut().insert(LINK, header_value(link));
    }
    if stale || storage.may_be_stale() {
        mark_stale(&mut response);
    }
    Ok(response)
}

/// A page as the upstream gave it.
fn upstreams(
    call: &Call<'_>,
    repository: &RepositoryName,
    tags: Vec<String>,
    items: usize,
    more: bool,
) -> Response<Body> {
    let last = more.then(|| tags.last().cloned()).flatten();
    let mut response = json(call, "application/json", &Tags { name: repository.as_str(), tags });
    if let Some(last) = last {
        let link = format!("</v2/{repository}/tags/list?n={items}&last={last}>; rel=\"next\"");
        response.headers_mut().insert(LINK, header_value(link));
    }
    response
}

async fn resolves(
    call: &Call<'_>,
    repository: &RepositoryName,
    tag: &str,
) -> Result<bool, ApiError> {
    // A key that is no tag was not written by a push.
    let Ok(tag) = tag.parse() else { return Ok(false) };
    let storage = call.storage(repository);
    let Some(record) = storage.tag(repository, &tag).await? else { return Ok(false) };
    Ok(storage.manifest(repository, &record.digest).await?.is_some())
}
