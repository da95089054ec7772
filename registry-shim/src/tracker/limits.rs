//! Bounds on what a request may carry and on what the tracker remembers.

/// Wants in one permit request.
pub(super) const WANTS_MAX: usize = 1024;
/// Permits that a request may say it holds.
pub(super) const HELD_MAX: usize = 1024;
/// Urgent pieces over all wants of one request.
pub(super) const URGENT_MAX: usize = 256;
/// Reports in one request that are looked at.
pub(super) const REPORTS_PER_REQUEST_MAX: usize = 64;
/// Reports of one member that count within one announce period, so that two liars can not have
/// the whole store read again.
pub(super) const REPORTS_PER_PERIOD_MAX: u32 = 256;
/// Reports of a cell that wait for a second one.
pub(super) const REPORTS_KEPT_MAX: usize = 65_536;
/// Holdings, and dropped digests, in one announce.
pub(super) const HOLDINGS_MAX: usize = 16_384;
/// Digests that a member may say it wants.
pub(super) const WANTED_MAX: usize = 1024;
/// Addresses of one member.
pub(super) const ADDRESSES_MAX: usize = 16;
/// Characters of one address.
pub(super) const ADDRESS_CHARS_MAX: usize = 256;
/// Characters of a PeerId or a zone.
pub(super) const NAME_CHARS_MAX: usize = 256;
/// Characters of a cell: a pool, a zone and what separates them.
pub(super) const CELL_CHARS_MAX: usize = 2 * NAME_CHARS_MAX + 8;

/// Cells of one instance.
pub(super) const CELLS_MAX: usize = 4096;
/// Members of one cell.
pub(super) const MEMBERS_MAX: usize = 65_536;
/// Pieces of one blob: 1 TiB in pieces of 4 MiB.
pub(super) const PIECES_PER_BLOB_MAX: u64 = 262_144;
/// Blobs that one member may hold; the oldest are forgotten first.
pub(super) const BLOBS_PER_MEMBER_MAX: usize = 16_384;
/// Pieces of the blobs that one member may hold: 1 TiB in pieces of 1 MiB, 128 KiB of bitmaps.
pub(super) const PIECES_PER_MEMBER_MAX: u64 = 1 << 20;
/// Blobs of one cell; those not used for longest are forgotten first.
pub(super) const BLOBS_PER_CELL_MAX: usize = 65_536;
/// Pieces of the blobs of one cell: 4 TiB in pieces of 1 MiB, about 90 MiB of counters.
pub(super) const PIECES_PER_CELL_MAX: u64 = 1 << 22;
/// A blob that nobody holds, reads or asks for is forgotten after this long.
pub(super) const BLOB_IDLE_MS: u64 = 10 * 60 * 1000;

/// Refusals in one answer.
pub(super) const REFUSALS_MAX: usize = 16;
/// Holders named for one piece.
pub(super) const HOLDERS_NAMED_MAX: usize = 8;
/// Missing pieces that one answer looks at to find refusals.
pub(super) const REFUSALS_SCANNED_MAX: usize = 256;
/// Pieces that one node may be reading at a time, even when it is alone.
pub(super) const OUTSTANDING_MAX: u32 = 64;
/// How long a member's own permit, which its request does not name as held, is taken to be on its
/// way to it; after that the answer was lost, and it is told once more.
pub(super) const TELL_AGAIN_AFTER_MS: u64 = 5_000;
/// A permit that neither `held` nor a bitmap of the request speaks of is in use for so long: then
/// its piece has come, and the bitmap that says so comes with the next announce.
pub(super) const UNSEEN_IN_USE_MS: u64 = 1_000;
/// However, a member never has more permits than its share times this.
pub(super) const UNSEEN_SHARES_MAX: usize = 4;
/// A member that did not ask for this long had patience: it begins anew.
pub(super) const ASKING_GAP_MS: u64 = 3_000;
/// A member that did not ask for this long begins another pull.
pub(super) const PULL_GAP_MS: u64 = 30_000;
/// Announce periods of silence after which a member is gone, and for which a reported holder
/// does not count.
pub(super) const PERIODS_UNTIL_GONE: u64 = 3;
