//! Collection: frees what nothing refers to, while pushes, mounts and pulls go on.
//!
//! Owns what counts as garbage (`decide`, pure), the order of reads and deletions (the other
//! files), and what was freed (`report`). Any number of instances may push meanwhile; one run works
//! at a time (a lease), and two at once are harmless. It must never delete what an acknowledged
//! write refers to. A run that dies is resumed; nothing is kept in memory that cannot be read anew,
//! and nothing grows with the store but a filter of fixed size and bounded windows of names.
//!
//! # The protocol
//!
//! Stores have no conditional delete, some have no conditional write, and every process may pause
//! anywhere. Three kinds of objects need three rules.
//!
//! *Keys that are used once* (segments, generations of pointers, histories, uploads). Once one is
//! garbage, it is garbage for ever, so a deletion may come as late as it likes.
//! - A **generation** without a reference gets a tombstone, and from then on is never used again
//!   ([`crate::storage`]'s `attach`): a push writes another generation, a mount becomes an upload.
//!   Tombstones of generations are never taken back. A writer writes its reference, then looks for
//!   the tombstone, then for the pointer; the collector writes the tombstone, then (a run later)
//!   lists references, then deletes the pointer, and the tombstone last. If the writer saw no
//!   tombstone, it was written after the reference, so the collector's list has the reference; or
//!   it was gone again, and then so is the pointer, which the writer sees. A generation that is
//!   referred to goes only while another one without a tombstone is there, and of those the first
//!   in order of keys never gets one; so of two collectors with old views one would have had to
//!   see the other's tombstone. It may still be read, by whoever looked the blob up before or
//!   follows a redirect: it goes a whole grace after its tombstone. A reference that a concurrent
//!   delete has lost is found again as a membership.
//! - A **segment** that no pointer names goes when it is older than any upload that could still
//!   name it. A pointer written later than that counts for nobody, whoever paused.
//!
//! *Keys that are written again, and claimed* (memberships, manifests). The collector buries an
//! item: a tombstone beside it. It takes an item whose tombstone is as old as the grace and younger
//! than the item, in a window: open the window on the repository, list its manifests, look at
//! tombstone and item once more, delete. Whoever relies on an item claims it first: take the
//! tombstone away, then wait while a window is open there.
//! - A claim that found no tombstone at time *t*: none is old enough before *t* + grace, and
//!   requests give up ([`crate::storage::Storage::still_holds`]) long before; so a manifest whose
//!   blobs were claimed is on every list that decides about them. Caches keep less than a quarter
//!   of the shortest grace.
//! - A claim that took one away and saw no window: a collector that opens its window later finds
//!   no tombstone and spares the item. If it saw one, it waits until that is closed, and reads what
//!   is left.
//! - What is written anew is younger than its tombstone, which then counts for nothing.
//!
//! This rule, alone, needs clocks: a window ends a minute after it was last renewed, a collector
//! that finds itself slower than that deletes nothing more, a deletion is given up after 15 s, and
//! clocks may differ by a minute. If all of that fails together, a membership is lost and reads as
//! 404 until the blob is pushed again; its bytes are not, while another membership has them.
//!
//! *Keys that can be made from others* (referrers, the catalog). They are deleted, then their
//! reason is looked for again, and they are put back where it is there. The writer writes the
//! reason first: whichever comes last sees the other. Hash states are computed again when missing.
//! Charges have their own such protocol in `storage`.

mod blobs;
pub mod bloom;
pub mod decide;
mod gone;
mod metrics;
mod options;
mod progress;
pub mod report;
mod repository;
mod run;
mod segments;
mod sundry;
mod tree;
mod worker;

pub use metrics::{GcMetrics, OutcomeLabels};
pub use options::Options;
pub use report::{Kind, Report, Tally};
pub use run::{Collector, GcError};
pub(crate) use worker::collect_now_and_then;

#[cfg(test)]
mod tests;
