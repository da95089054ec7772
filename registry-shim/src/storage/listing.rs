//! Lists in pages, sorted by bytes whatever order the store has.
//!
//! Memory is bounded by the page: a listing is streamed through the `n + 1` smallest names.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use object_store::path::Path;

use super::{Storage, StorageError};

/// Some names, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Whether names follow the last one.
    pub more: bool,
}

impl<T: Ord> Page<T> {
    /// One page of several that begin after the same name: the `limit` smallest names.
    pub fn merge(pages: Vec<Self>, limit: usize) -> Self {
        let more = pages.iter().any(|page| page.more);
        let names: BTreeSet<T> = pages.into_iter().flat_map(|page| page.items).collect();
        let found = names.len();
        let items: Vec<T> = names.into_iter().take(limit).collect();
        Self { more: more || found > items.len(), items }
    }
}

impl Storage {
    /// The `limit` smallest names under `prefix` that come after `after`, whose key is `from` where
    /// it can have one. A store that lists in order is read no further than the page.
    pub(super) async fn page<T: Ord + AsRef<str>>(
        &self,
        prefix: &Path,
        after: Option<&str>,
        from: Option<&Path>,
        limit: usize,
        name_of: impl Fn(&Path) -> Option<T>,
    ) -> Result<Page<T>, StorageError> {
        let mut smallest = BTreeSet::new();
        let mut more = false;
        let mut listing = match from {
            Some(from) => self.store.list_with_offset(Some(prefix), from),
            None => self.store.list(Some(prefix)),
        };
        while let Some(object) = listing.try_next().await? {
            let Some(name) = name_of(&object.location) else { continue };
            if after.is_some_and(|after| name.as_ref() <= after) {
                continue;
            }
            smallest.insert(name);
            if smallest.len() > limit {
                smallest.pop_last();
                more = true;
                if self.lists_in_order {
                    break;
                }
            }
        }
        Ok(Page { items: smallest.into_iter().collect(), more })
    }

    /// Every key under `prefix`, sorted; only for prefixes that are small by construction.
    pub(super) async fn keys(&self, prefix: &Path) -> Result<Vec<Path>, StorageError> {
        let mut keys: Vec<Path> =
            self.store.list(Some(prefix)).map_ok(|object| object.location).try_collect().await?;
        keys.sort();
        Ok(keys)
    }
}
