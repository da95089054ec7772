//! Lists of a fronted repository: the upstream's own, bounded; what is kept when it cannot be
//! asked is the caller's to add.

use http::HeaderMap;
use http::header::LINK;
use longshore_proto::{Digest, Reference};
use serde::Deserialize;

use super::Fronted;
use super::answer::read_bounded;
use super::ask::Ask;
use super::error::UpstreamError;
use crate::storage::Referrer;

/// One page of any list.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

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
        let more = has_next(response.headers());
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

    /// The referrers of `subject`. A registry without that list may have them under a tag.
    pub(crate) async fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, UpstreamError> {
        let ask = Ask::get(&self.remote, format!("referrers/{subject}"));
        let list: ReferrerList = match self.upstream.client.ask(&ask).await {
            Ok(response) => parse(&read_bounded(response, LIST_BYTES_MAX).await?)?,
            Err(UpstreamError::NotFound) => {
                let tag = format!("{}-{}", subject.algorithm().name(), subject.hex());
                let tag = tag.parse().map_err(|_| UpstreamError::NotFound)?;
                match self.tag(&tag).await {
                    Ok(tagged) => parse(&tagged.manifest.content)?,
                    Err(UpstreamError::NotFound) => ReferrerList { manifests: None },
                    Err(error) => return Err(error),
                }
            }
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

fn has_next(headers: &HeaderMap) -> bool {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.into_iter().any(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, UpstreamError> {
    serde_json::from_slice(body)
        .map_err(|_| UpstreamError::BadAnswer("list is malformed".to_owned()))
}
