//! Which bytes of a growing blob may be read: pure.
//!
//! Whatever has arrived may leave at once, except for the blob's last bytes: they stay until the
//! digest has matched, so that nobody ever has a whole blob that is not the one it asked for.

/// Kept back until the digest has matched: 64 KiB, or all of a smaller blob.
pub(super) const WITHHELD_BYTES: u64 = 64 * 1024;
/// Readers step from boundary to boundary, so that those at the same place share one read.
pub(super) const CHUNK_BYTES: u64 = 128 * 1024;

/// What is there of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// `None` until the upstream has said it, or has ended.
    size: Option<u64>,
    arrived: u64,
    verified: bool,
}

impl Window {
    /// Nothing of a blob of that size.
    pub(super) const fn new(size: Option<u64>) -> Self {
        Self { size, arrived: 0, verified: false }
    }

    /// Bytes of the blob, where that is known.
    pub(super) const fn size(self) -> Option<u64> {
        self.size
    }

    /// Bytes that are there, from the first on.
    pub(super) const fn arrived(self) -> u64 {
        self.arrived
    }

    /// Whether all bytes are there.
    pub(super) fn is_whole(self) -> bool {
        self.size == Some(self.arrived)
    }

    /// Whether any byte leaves before the digest has matched, or it has matched.
    pub(super) fn leaves_early(self) -> bool {
        self.verified || self.size.unwrap_or(self.arrived) > WITHHELD_BYTES
    }

    /// More has arrived; `None` when that would be more than the blob has.
    pub(super) fn arrive(mut self, bytes: u64) -> Option<Self> {
        self.arrived = self.arrived.checked_add(bytes)?;
        self.size.is_none_or(|size| self.arrived <= size).then_some(self)
    }

    /// The upstream has said how long the blob is, or has ended; `None` when it said otherwise
    /// before, or has sent more.
    pub(super) fn learn(mut self, size: u64) -> Option<Self> {
        let fits = self.size.is_none_or(|known| known == size) && self.arrived <= size;
        self.size = Some(size);
        fits.then_some(self)
    }

    /// The digest of what arrived is the one that was asked for.
    pub(super) fn verify(mut self) -> Self {
        debug_assert!(self.is_whole(), "a digest is of a whole blob");
        self.verified = true;
        self
    }

    /// One past the last byte that may leave.
    pub(super) fn readable(self) -> u64 {
        if self.verified {
            return self.arrived;
        }
        // Of a blob without a known end, any byte may be one of the last.
        let last = self.size.unwrap_or(self.arrived);
        self.arrived.min(last.saturating_sub(WITHHELD_BYTES))
    }

    /// Whether a reader that stands at `at` has everything.
    pub(super) const fn is_read(self, at: u64) -> bool {
        self.verified && at >= self.arrived
    }

    /// The next piece for a reader that stands at `at` and reads up to `to`.
    pub(super) fn next(self, at: u64, to: u64) -> Option<(u64, u64)> {
        let end = self.readable().min(to);
        let boundary = (at / CHUNK_BYTES + 1) * CHUNK_BYTES;
        (at < end).then_some((at, end.min(boundary)))
    }

    /// Whether a fill goes on that nobody reads any more.
    pub(super) fn goes_on_alone(self, abandoned_bytes_max: u64) -> bool {
        self.size.is_some_and(|size| size - self.arrived <= abandoned_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_bytes_stay_until_the_digest_has_matched() {
        let size = 3 * WITHHELD_BYTES;
        let window = Window::new(Some(size)).arrive(10).unwrap();
        assert_eq!(window.readable(), 10);
        let whole = window.arrive(size - 10).unwrap();
        assert_eq!(whole.readable(), 2 * WITHHELD_BYTES);
        assert_eq!(whole.next(2 * WITHHELD_BYTES, size), None);
        assert_eq!(whole.verify().readable(), size);
        assert_eq!(whole.arrive(1), None);
        assert_eq!(whole.arrive(u64::MAX), None);
        let small = Window::new(Some(WITHHELD_BYTES)).arrive(WITHHELD_BYTES).unwrap();
        assert_eq!((small.readable(), small.verify().readable()), (0, WITHHELD_BYTES));
    }

    #[test]
    fn an_abandoned_fill_goes_on_when_little_is_left() {
        let window = Window::new(Some(100)).arrive(40).unwrap();
        assert!(window.goes_on_alone(60) && !window.goes_on_alone(59));
        assert!(!Window::new(None).goes_on_alone(u64::MAX), "nobody knows how much is left");
    }

    #[test]
    fn without_a_known_size_the_newest_bytes_stay() {
        let window = Window::new(None).arrive(WITHHELD_BYTES).unwrap();
        assert!(!window.leaves_early() && window.readable() == 0);
        let window = window.arrive(10).unwrap();
        assert!(window.leaves_early() && window.readable() == 10 && !window.is_whole());
        let ended = window.learn(WITHHELD_BYTES + 10).unwrap();
        assert!(ended.is_whole() && !ended.is_read(ended.arrived()));
        let verified = ended.verify();
        assert_eq!(verified.readable(), WITHHELD_BYTES + 10);
        assert!(verified.is_read(verified.arrived()) && !verified.is_read(10));
        assert_eq!((window.learn(10), ended.learn(WITHHELD_BYTES + 11)), (None, None));
    }

    proptest! {
        #[test]
        fn readers_see_every_byte_once_and_none_too_early(
            size in 0..5 * CHUNK_BYTES,
            known in any::<bool>(),
            steps in prop::collection::vec(0..CHUNK_BYTES, 0..12),
            from in 0..5 * CHUNK_BYTES,
        ) {
            let (mut window, mut at) = (Window::new(known.then_some(size)), from);
            let read = |window: Window, at: &mut u64| {
                while let Some((first, end)) = window.next(*at, size) {
                    assert!(first == *at && end > first && end - first <= CHUNK_BYTES);
                    assert!(end <= window.readable() && end <= window.arrived());
                    *at = end;
                }
            };
            for step in steps {
                window = window.arrive(step.min(size - window.arrived())).unwrap();
                read(window, &mut at);
            }
            window = window.arrive(size - window.arrived()).unwrap().learn(size).unwrap();
            read(window, &mut at);
            prop_assert!(size == 0 || at < size || from >= size);
            read(window.verify(), &mut at);
            prop_assert_eq!(at, size.max(from));
        }
    }
}
