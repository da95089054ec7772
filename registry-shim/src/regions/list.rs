//! Listings of a home: the primary's, in which the keys that the journal names are the replica's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, Result};

use super::home::{ASKED_MAX, Home};
use super::journal::Op;
use super::key;
use super::side::{Which, is_answer, late, present};

/// Keys of the journal that are looked for at once.
const READS_IN_FLIGHT_MAX: usize = 16;

type Objects = BoxStream<'static, Result<ObjectMeta>>;

impl Home {
    /// Everything under `prefix`, in no order.
    pub(super) fn list(self: Arc<Self>, prefix: Option<Path>) -> Objects {
        stream::once(async move {
            match self.listing(prefix).await {
                Ok(objects) => objects,
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    /// As with single keys: what a listing of the replica lacks is absent only where the replica is
    /// the truth.
    async fn listing(self: Arc<Self>, prefix: Option<Path>) -> Result<Objects> {
        let mut failed = None;
        for _ in 0..ASKED_MAX {
            if !self.primary.is_up() || self.journal.overflows() {
                return self.begun(Which::Replica, prefix.as_ref()).await;
            }
            // Before the listing: a key that is replayed meanwhile stays the replica's.
            let pending = self.journal.under(prefix.as_ref());
            match self.begun(Which::Primary, prefix.as_ref()).await {
                Ok(objects) if pending.is_empty() => return Ok(objects),
                Ok(objects) => return Ok(self.clone().merged(objects, pending)),
                Err(error) if is_answer(&error) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        if self.primary.is_up() {
            return Err(failed.unwrap_or_else(late));
        }
        self.begun(Which::Replica, prefix.as_ref()).await
    }

    /// A listing whose first object has come in time, and whose others are waited for as long.
    async fn begun(self: &Arc<Self>, which: Which, prefix: Option<&Path>) -> Result<Objects> {
        let (side, idle) = (self.side(which), self.timing.record);
        // Some stores' listings must not be asked again after their end.
        let mut objects = side.store.list(prefix).fuse();
        let first = side.call(idle, async { objects.next().await.transpose() }).await?;
        let home = self.clone();
        let rest = stream::unfold(Some(objects), move |objects| {
            let home = home.clone();
            async move {
                let mut objects = objects?;
                let next = tokio::time::timeout(idle, objects.next()).await;
                let next = next.unwrap_or_else(|_| Some(Err(late())))?;
                let rest = match &next {
                    Ok(_) => Some(objects),
                    Err(error) => {
                        home.side(which).report(Some(error));
                        None
                    }
                };
                Some((next, rest))
            }
        });
        let own = |object: &Result<ObjectMeta>| {
            std::future::ready(!object.as_ref().is_ok_and(|o| key::is_local(&o.location)))
        };
        Ok(stream::iter(first.map(Ok)).chain(rest).filter(own).boxed())
    }

    fn merged(self: Arc<Self>, objects: Objects, pending: HashMap<Path, Op>) -> Objects {
        let keys: Vec<(Path, Op)> = pending.iter().map(|(key, op)| (key.clone(), *op)).collect();
        let primary = objects
            .try_filter(move |object| std::future::ready(!pending.contains_key(&object.location)));
        let replica = stream::iter(keys)
            .map(move |(key, op)| {
                let home = self.clone();
                async move { home.find_pending(&key, op).await }
            })
            .buffer_unordered(READS_IN_FLIGHT_MAX)
            .try_filter_map(|found| std::future::ready(Ok(found)));
        primary.chain(replica).boxed()
    }

    async fn find_pending(&self, key: &Path, op: Op) -> Result<Option<ObjectMeta>> {
        let head = |which: Which| {
            let side = self.side(which);
            side.call(self.timing.record, async { present(side.store.head(key).await) })
        };
        match head(Which::Replica).await? {
            None if op == Op::Put => head(Which::Primary).await,
            found => Ok(found),
        }
    }

    pub(super) async fn list_with_delimiter(
        self: Arc<Self>,
        prefix: Option<&Path>,
    ) -> Result<ListResult> {
        if self.primary.is_up() && self.journal.pending() == 0 {
            let side = &self.primary;
            let listed = side.call(self.timing.record, side.store.list_with_delimiter(prefix));
            if let Ok(mut listed) = listed.await {
                listed.common_prefixes.retain(|prefix| !key::is_local(&prefix.clone().join("-")));
                listed.objects.retain(|object| !key::is_local(&object.location));
                return Ok(listed);
            }
        }
        let depth = prefix.map_or(0, |prefix| prefix.parts_count());
        let mut objects = self.list(prefix.cloned());
        let (mut prefixes, mut found) = (BTreeSet::new(), Vec::new());
        while let Some(object) = objects.try_next().await? {
            if object.location.parts_count() == depth + 1 {
                found.push(object);
            } else {
                prefixes.insert(object.location.parts().take(depth + 1).collect::<Path>());
            }
        }
        let common_prefixes = prefixes.into_iter().collect();
        Ok(ListResult { common_prefixes, objects: found, extensions: Default::default() })
    }
}
