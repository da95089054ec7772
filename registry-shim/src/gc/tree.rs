//! The repositories, in the order of their names' parts, one directory at a time.

use std::collections::VecDeque;

use longshore_proto::RepositoryName;

use crate::storage::{Branch, Storage, StorageError};

/// On its way through the tree. Holds the names of one directory for each part of the name that it
/// has reached.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    storage: &'a Storage,
    after: String,
    open: Vec<(String, VecDeque<Branch>)>,
}

impl<'a> Walk<'a> {
    /// Goes through all repositories after `after`, or all where that is empty.
    pub(super) async fn begin(storage: &'a Storage, after: &str) -> Result<Self, StorageError> {
        let first = storage.branches("").await?.into();
        Ok(Self { storage, after: after.to_owned(), open: vec![(String::new(), first)] })
    }

    /// The next repository. One comes before those whose names go on after its own.
    pub(super) async fn next(&mut self) -> Result<Option<RepositoryName>, StorageError> {
        while let Some((parent, branches)) = self.open.last_mut() {
            let Some(branch) = branches.pop_front() else {
                self.open.pop();
                continue;
            };
            let name = match parent.as_str() {
                "" => branch.part,
                parent => format!("{parent}/{}", branch.part),
            };
            let is_passed = !self.after.is_empty() && name.split('/').le(self.after.split('/'));
            let leads_on = !is_passed || parts_begin(&self.after, &name);
            if branch.has_more && leads_on {
                let below = self.storage.branches(&name).await?.into();
                self.open.push((name.clone(), below));
            }
            if branch.is_repository
                && !is_passed
                && let Ok(repository) = name.parse()
            {
                return Ok(Some(repository));
            }
        }
        Ok(None)
    }
}

/// Whether the parts of `name` are the first ones of `whole`.
fn parts_begin(whole: &str, name: &str) -> bool {
    whole.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longshore_proto::sign::SigningKey;
    use longshore_proto::{Algorithm, Digest};
    use object_store::memory::InMemory;

    use super::*;
    use crate::storage::{Item, Keys};

    #[tokio::test]
    async fn every_repository_is_met_once_whatever_its_name() {
        let key = Arc::new(SigningKey::generate().0);
        let storage = Storage::new(Arc::new(InMemory::new()), key);
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let names = ["a", "a-b", "a/b", "a/b/c", "a.b/c", "b/a/c", "b/a-c/d", "c"];
        for name in names {
            let item = Keys::item(&name.parse().unwrap(), Item::Blob(digest));
            storage.mark(&item).await.unwrap();
        }
        let mut met = Vec::new();
        let mut walk = Walk::begin(&storage, "").await.unwrap();
        while let Some(found) = walk.next().await.unwrap() {
            met.push(found.to_string());
        }
        let mut sorted = met.clone();
        sorted.sort();
        assert_eq!(sorted, {
            let mut names = names.map(str::to_owned);
            names.sort();
            names
        });
        for (at, name) in met.iter().enumerate() {
            let mut rest = Vec::new();
            let mut walk = Walk::begin(&storage, name).await.unwrap();
            while let Some(found) = walk.next().await.unwrap() {
                rest.push(found.to_string());
            }
            assert_eq!(rest, met[at + 1..], "after {name}");
        }
    }
}
