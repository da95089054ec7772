//! `/v2/_catalog`: the repositories, in pages.

use http::header::LINK;
use serde::Serialize;

use super::{Answer, Call, header_value, json};

#[derive(Serialize)]
struct Catalog {
    repositories: Vec<String>,
}

pub(super) async fn list(call: &Call<'_>) -> Answer {
    let items = call.page_items()?;
    let last = call.query.get("last");
    let page = call.registry.storage.storage().repositories(last.as_deref(), items).await?;
    let next = page.more.then(|| page.items.last().cloned()).flatten();
    let mut response = json(call, "application/json", &Catalog { repositories: page.items });
    if let Some(last) = next {
        let link = format!("</v2/_catalog?n={items}&last={last}>; rel=\"next\"");
        response.headers_mut().insert(LINK, header_value(link));
    }
    Ok(response)
}
