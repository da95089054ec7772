//! Lists of a fronted repository: the upstream's own, bounded; what is kept when it cannot be
//! asked is the caller's to add.

use std::time::Duration;

use http::header::LINK;
use longshore_proto::{Digest, Reference};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::Fronted;
use super::answer::read_bounded;
use super::ask::{Ask, To};
use super::error::UpstreamError;
use crate::storage::Referrer;

/// One page of any list.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pages of one subject's referrers, and descriptors of all of them.
const REFERRER_PAGES_MAX: usize = 32;
const REFERRERS_MAX: usize = 10_000;
/// All pages together: clients wait 30 s.
const REFERRERS_TIMEOUT: Duration = Duration::from_secs(20);

/// A page of tags.
#[derive(Debug, Deserialize)]
pub(crate) struct TagList {
    /// `null` is written by some for an empty one.
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(skip)]
    more: bool,
}

#[derive(Deserialize)]
struct ReferrerList {
    #[serde(default)]
    manifests: Option<Vec<Referrer>>,
}

impl TagList {
    /// The names, as the upstream orders them, and whether more follow.
    pub(crate) fn into_parts(self) -> (Vec<String>, bool) {
        (self.tags.unwrap_or_default(), self.more)
    }
}

impl Fronted {
    /// At most `limit` tags after `last`.
    pub(crate) async fn tags(
        &self,
        limit: usize,
        last: Option<&str>,
    ) -> Result<TagList, UpstreamError> {
        let path = tags_path(limit, last);
        let response = self.upstream.client.ask(&Ask::get(&self.remote, path)).await?;
        let more = next_page(&response).is_some();
        let mut list: TagList = parse(&read_bounded(response, LIST_BYTES_MAX).await?)?;
        list.more = more;
        if let Some(tags) = &mut list.tags {
            // What is no tag could stand in our own link, and some know no `n`.
            tags.retain(|tag| matches!(tag.parse(), Ok(Reference::Tag(_))));
            list.more |= tags.len() > limit;
            tags.truncate(limit);
        }
        Ok(list)
    }

    /// The referrers of `subject`, all pages of them. A registry without that list may have them
    /// under a tag.
    pub(crate) async fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, UpstreamError> {
        let listed = tokio::time::timeout(REFERRERS_TIMEOUT, self.listed_referrers(subject)).await;
        match listed.unwrap_or(Err(UpstreamError::TimedOut)) {
            Err(UpstreamError::NotFound) => self.tagged_referrers(subject).await,
            listed => listed,
        }
    }

    /// Of a list that has no end there is none: half a list would hide a signature.
    async fn listed_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, UpstreamError> {
        let client = &self.upstream.client;
        let mut ask = Ask::get(&self.remote, format!("referrers/{subject}"));
        let mut all = Vec::new();
        for _ in 0..REFERRER_PAGES_MAX {
            let response = client.ask(&ask).await?;
            let next = next_page(&response);
            let page: ReferrerList = parse(&read_bounded(response, LIST_BYTES_MAX).await?)?;
            all.extend(page.manifests.unwrap_or_default());
            if all.len() > REFERRERS_MAX {
                break;
            }
            let Some(next) = next else { return Ok(all) };
            if !client.is_own(&next) {
                return Err(UpstreamError::BadAnswer("list goes on elsewhere".to_owned()));
            }
            ask.to = To::Location(next);
        }
        Err(UpstreamError::BadAnswer("list of referrers is too long".to_owned()))
    }

    async fn tagged_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, UpstreamError> {
        let tag = format!("{}-{}", subject.algorithm().name(), subject.hex());
        let tag = tag.parse().map_err(|_| UpstreamError::NotFound)?;
        let list: ReferrerList = match self.tag(&tag).await {
            Ok(tagged) => parse(&tagged.manifest.content)?,
            Err(UpstreamError::NotFound) => ReferrerList { manifests: None },
            Err(error) => return Err(error),
        };
        Ok(list.manifests.unwrap_or_default())
    }
}

fn tags_path(limit: usize, last: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("n", &limit.to_string());
    if let Some(last) = last {
        query.append_pair("last", last);
    }
    format!("tags/list?{}", query.finish())
}

/// Where a list goes on. Source: RFC 8288, as far as registries use it.
fn next_page(response: &Response) -> Option<Url> {
    let links = response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|links| links.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })?;
    response.url().join(next).ok()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, UpstreamError> {
    serde_json::from_slice(body)
        .map_err(|_| UpstreamError::BadAnswer("list is malformed".to_owned()))
}
