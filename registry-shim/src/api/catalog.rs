//! `/v2/_catalog`: the repositories that the caller may pull, in pages.

use http::header::LINK;
use longshore_proto::ErrorCode;
use serde::Serialize;

use super::{Answer, ApiError, Call, header_value, json, mark_stale};
use crate::storage::Page;

/// Names that are read from the store at once.
const SCAN_ITEMS: usize = 1001;
/// Reads for one page: so many names may lie between two that the caller may see.
const SCANS_MAX: usize = 256;

#[derive(Serialize)]
struct Catalog {
    repositories: Vec<String>,
}

pub(super) async fn list(call: &Call<'_>) -> Answer {
    call.authorize_catalog()?;
    let items = call.page_items()?;
    let last = call.query.get("last").map(std::borrow::Cow::into_owned);
    let (repositories, more) = visible(call, last, items).await?;
    let next = more.then(|| repositories.last().cloned()).flatten();
    let mut response = json(call, "application/json", &Catalog { repositories });
    if let Some(last) = next {
        let link = format!("</v2/_catalog?n={items}&last={last}>; rel=\"next\"");
        response.headers_mut().insert(LINK, header_value(link));
    }
    if call.registry.storages().any(|storage| storage.storage().may_be_stale()) {
        mark_stale(&mut response);
    }
    Ok(response)
}

/// The next names after `after` that the caller may know of, and whether others follow. A link to
/// the next page names only what was shown.
async fn visible(
    call: &Call<'_>,
    mut after: Option<String>,
    items: usize,
) -> Result<(Vec<String>, bool), ApiError> {
    let mut shown = Vec::new();
    if items == 0 {
        return Ok((shown, false));
    }
    for _ in 0..SCANS_MAX {
        let mut pages = Vec::new();
        for storage in call.registry.storages() {
            pages.push(storage.storage().repositories(after.as_deref(), SCAN_ITEMS).await?);
        }
        let page = Page::merge(pages, SCAN_ITEMS);
        after = page.items.last().cloned();
        let may_see = |name: &String| {
            name.parse().is_ok_and(|name| call.registry.auth.lists(&call.actor, &name))
        };
        shown.extend(page.items.into_iter().filter(may_see).take(items + 1 - shown.len()));
        let more = shown.len() > items;
        if more || !page.more {
            shown.truncate(items);
            return Ok((shown, more));
        }
    }
    let message = "too many repositories lie between those that you may see";
    Err(ApiError::new(ErrorCode::Unavailable, message))
}
