//! What is garbage, and what is to be done with it now: from listings with times, without I/O and
//! without a clock.

use std::collections::{BTreeMap, BTreeSet};

use longshore_proto::Digest;

use crate::storage::{GRACE_MIN_MS, Item, Seen};

/// When what may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Unix milliseconds.
    pub now_ms: u64,
    /// From an item's tombstone to its deletion.
    pub grace_ms: u64,
    /// Untagged manifests that are as old are garbage; `None`: they stay.
    pub untagged_after_ms: Option<u64>,
}

/// A repository, or the share of it that is looked at together.
#[derive(Clone, Debug, Default)]
pub struct RepositoryView {
    /// Its blobs.
    pub members: BTreeMap<Digest, Seen>,
    /// Its manifests.
    pub manifests: BTreeMap<Digest, Seen>,
    /// What was buried.
    pub tombstones: BTreeMap<Item, Seen>,
    /// Blobs that manifests name.
    pub named: BTreeSet<Digest>,
    /// Manifests that tags or indexes name, or that refer to a manifest that is there.
    pub kept: BTreeSet<Digest>,
    /// A manifest could not be read: nobody knows what it names.
    pub unreadable: bool,
}

/// What to do with a repository's items; each is in at most one list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryPlan {
    /// Garbage without a tombstone.
    pub bury: Vec<Item>,
    /// Garbage whose grace is over.
    pub take: Vec<Item>,
    /// Garbage whose grace is not over.
    pub wait: Vec<Item>,
    /// Tombstones of what is no garbage, was written anew, or is gone.
    pub spare: Vec<Item>,
}

/// A blob's pointers.
#[derive(Clone, Debug, Default)]
pub struct BlobView {
    /// Its generations.
    pub generations: BTreeMap<String, Seen>,
    /// Those that are never used again.
    pub tombstones: BTreeMap<String, Seen>,
    /// Those that came so late that nobody may rely on them.
    pub void: BTreeSet<String>,
    /// Some repository holds the blob, or is about to.
    pub referenced: bool,
}

/// What to do with a blob's pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobPlan {
    /// Superfluous, and without a tombstone.
    pub bury: Vec<String>,
    /// To be deleted.
    pub take: Vec<String>,
    /// Buried, and not yet to be deleted.
    pub wait: Vec<String>,
    /// Tombstones whose generations are gone.
    pub forget: Vec<String>,
}

impl Policy {
    const fn is_older(&self, seen: &Seen, age_ms: u64) -> bool {
        seen.at_ms.saturating_add(age_ms) <= self.now_ms
    }

    /// Whether nothing can rely on it any more that looked at it when it was written.
    pub const fn is_settled(&self, seen: &Seen) -> bool {
        self.is_older(seen, GRACE_MIN_MS)
    }

    /// Whether the grace has passed since it was written.
    pub const fn is_past_grace(&self, seen: &Seen) -> bool {
        self.is_older(seen, self.grace_ms)
    }

    /// Whether a generation may go that was buried then. Of a blob that is held somebody may still
    /// be reading it: who began before stays with its segments, and so does a redirect's URL.
    const fn may_take(&self, tombstone: &Seen, referenced: bool) -> bool {
        if referenced { self.is_past_grace(tombstone) } else { self.is_settled(tombstone) }
    }

    fn is_garbage(&self, view: &RepositoryView, item: Item, seen: &Seen) -> bool {
        match item {
            Item::Blob(digest) => !view.named.contains(&digest),
            Item::Manifest(digest) => self
                .untagged_after_ms
                .is_some_and(|age_ms| self.is_older(seen, age_ms) && !view.kept.contains(&digest)),
        }
    }
}

/// What to do with a repository's memberships and manifests.
pub fn repository(policy: &Policy, view: &RepositoryView) -> RepositoryPlan {
    let mut plan = RepositoryPlan::default();
    let members = view.members.iter().map(|(digest, seen)| (Item::Blob(*digest), seen));
    let manifests = view.manifests.iter().map(|(digest, seen)| (Item::Manifest(*digest), seen));
    let items: BTreeMap<Item, &Seen> = members.chain(manifests).collect();
    for item in view.tombstones.keys().filter(|item| !items.contains_key(item)) {
        plan.spare.push(*item);
    }
    for (item, seen) in items {
        let garbage = !view.unreadable && policy.is_garbage(view, item, seen);
        match view.tombstones.get(&item) {
            Some(tombstone) if !garbage || tombstone.at_ms <= seen.at_ms => plan.spare.push(item),
            Some(tombstone) if policy.is_past_grace(tombstone) => plan.take.push(item),
            Some(_) => plan.wait.push(item),
            // A push whose manifest is still to come is left in peace.
            None if garbage && policy.is_settled(seen) => plan.bury.push(item),
            None => {}
        }
    }
    plan
}

/// What to do with a blob's pointers. Of a blob that is referred to, the first generation without a
/// tombstone stays, and while there is none, all do.
pub fn blob(policy: &Policy, view: &BlobView) -> BlobPlan {
    let mut plan = BlobPlan::default();
    let usable = |generation: &&String| {
        !view.tombstones.contains_key(*generation) && !view.void.contains(*generation)
    };
    let kept = view.generations.keys().find(usable).filter(|_| view.referenced);
    let may_take = !view.referenced || kept.is_some();
    for (generation, seen) in &view.generations {
        match view.tombstones.get(generation) {
            Some(tombstone) if may_take && policy.may_take(tombstone, view.referenced) => {
                plan.take.push(generation.clone());
            }
            Some(_) => plan.wait.push(generation.clone()),
            None if kept != Some(generation) && policy.is_settled(seen) => {
                plan.bury.push(generation.clone());
            }
            None => {}
        }
    }
    for (generation, seen) in &view.tombstones {
        if !view.generations.contains_key(generation) && policy.is_settled(seen) {
            plan.forget.push(generation.clone());
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;

    use super::*;

    const HOUR_MS: u64 = GRACE_MIN_MS;
    const NOW_MS: u64 = 1000 * HOUR_MS;
    const POLICY: Policy =
        Policy { now_ms: NOW_MS, grace_ms: 26 * HOUR_MS, untagged_after_ms: None };

    fn ago(hours: u64) -> Seen {
        Seen { at_ms: NOW_MS - hours * HOUR_MS, bytes: 10 }
    }

    fn digest(content: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, content)
    }

    #[test]
    fn an_item_goes_from_garbage_over_the_tombstone_to_its_end() {
        let (young, fresh, waits, goes, used, anew) =
            (digest(b"1"), digest(b"2"), digest(b"3"), digest(b"4"), digest(b"5"), digest(b"6"));
        let view = RepositoryView {
            members: BTreeMap::from([
                (young, ago(0)),
                (fresh, ago(1)),
                (waits, ago(60)),
                (goes, ago(60)),
                (used, ago(60)),
                (anew, ago(2)),
            ]),
            tombstones: BTreeMap::from([
                (Item::Blob(waits), ago(25)),
                (Item::Blob(goes), ago(26)),
                (Item::Blob(used), ago(26)),
                (Item::Blob(anew), ago(26)),
                (Item::Blob(digest(b"gone")), ago(26)),
            ]),
            named: BTreeSet::from([used]),
            ..RepositoryView::default()
        };
        let plan = repository(&POLICY, &view);
        assert_eq!(plan.bury, [Item::Blob(fresh)]);
        assert_eq!(plan.wait, [Item::Blob(waits)]);
        assert_eq!(plan.take, [Item::Blob(goes)]);
        let spared = BTreeSet::from_iter(plan.spare);
        let gone = digest(b"gone");
        assert_eq!(spared, BTreeSet::from([used, anew, gone].map(Item::Blob)));
    }

    #[test]
    fn nothing_of_a_repository_goes_while_a_manifest_cannot_be_read() {
        let lost = digest(b"1");
        let view = RepositoryView {
            members: BTreeMap::from([(lost, ago(90)), (digest(b"2"), ago(90))]),
            tombstones: BTreeMap::from([(Item::Blob(lost), ago(80))]),
            unreadable: true,
            ..RepositoryView::default()
        };
        let plan = repository(&POLICY, &view);
        assert_eq!((plan.take.len(), plan.bury.len()), (0, 0));
    }

    #[test]
    fn untagged_manifests_go_only_where_that_is_asked_for() {
        let (old, new, kept) = (digest(b"1"), digest(b"2"), digest(b"3"));
        let view = RepositoryView {
            manifests: BTreeMap::from([(old, ago(50)), (new, ago(10)), (kept, ago(50))]),
            kept: BTreeSet::from([kept]),
            ..RepositoryView::default()
        };
        assert_eq!(repository(&POLICY, &view), RepositoryPlan::default());
        let asked = Policy { untagged_after_ms: Some(40 * HOUR_MS), ..POLICY };
        assert_eq!(repository(&asked, &view).bury, [Item::Manifest(old)]);
    }

    fn blob_view(generations: &[(&str, u64, Option<u64>)], referenced: bool) -> BlobView {
        let mut view = BlobView { referenced, ..BlobView::default() };
        for (name, age, buried) in generations {
            view.generations.insert((*name).to_owned(), ago(*age));
            if let Some(buried) = buried {
                view.tombstones.insert((*name).to_owned(), ago(*buried));
            }
        }
        view
    }

    #[test]
    fn a_blob_that_nobody_holds_is_buried_and_taken() {
        let plan = blob(&POLICY, &blob_view(&[("a", 0, None), ("b", 1, None)], false));
        assert_eq!((plan.bury, plan.take), (vec!["b".to_owned()], vec![]));
        let plan = blob(&POLICY, &blob_view(&[("a", 9, Some(0)), ("b", 9, Some(1))], false));
        assert_eq!((plan.wait, plan.take), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn a_blob_that_is_held_keeps_a_generation_whatever_was_buried() {
        let plan = blob(&POLICY, &blob_view(&[("a", 9, None), ("b", 9, None)], true));
        assert_eq!(plan.bury, ["b"]);
        let plan = blob(&POLICY, &blob_view(&[("a", 30, Some(26)), ("b", 30, None)], true));
        assert_eq!((plan.bury, plan.take), (vec![], vec!["a".to_owned()]));
        let plan = blob(&POLICY, &blob_view(&[("a", 30, Some(26)), ("b", 30, Some(26))], true));
        assert_eq!((plan.bury, plan.take), (vec![], vec![]));
        assert_eq!(plan.wait.len(), 2);
    }

    #[test]
    fn a_generation_that_may_still_be_read_waits_for_the_whole_grace() {
        let plan = blob(&POLICY, &blob_view(&[("a", 30, Some(25)), ("b", 30, None)], true));
        assert_eq!((plan.take, plan.wait), (vec![], vec!["a".to_owned()]));
        let plan = blob(&POLICY, &blob_view(&[("a", 30, Some(25)), ("b", 30, None)], false));
        assert_eq!(plan.take, ["a"]);
    }

    #[test]
    fn a_generation_that_came_too_late_is_not_the_one_that_stays() {
        let mut view = blob_view(&[("a", 9, None), ("b", 9, None)], true);
        view.void.insert("a".to_owned());
        assert_eq!(blob(&POLICY, &view).bury, ["a"]);
    }

    #[test]
    fn a_tombstone_outlives_its_generation_by_a_while() {
        let mut view = BlobView::default();
        view.tombstones.insert("a".into(), ago(0));
        view.tombstones.insert("b".into(), ago(2));
        assert_eq!(blob(&POLICY, &view).forget, ["b"]);
    }
}
