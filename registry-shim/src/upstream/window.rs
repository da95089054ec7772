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
    size: u64,
    arrived: u64,
    verified: bool,
}

impl Window {
    /// Nothing of a blob of that size.
    pub(super) const fn new(size: u64) -> Self {
        Self { size, arrived: 0, verified: false }
    }

    /// Bytes of the blob.
    pub(super) const fn size(self) -> u64 {
        self.size
    }

    /// Bytes that are there, from the first on.
    pub(super) const fn arrived(self) -> u64 {
        self.arrived
    }

    /// Bytes to come.
    pub(super) const fn missing(self) -> u64 {
        self.size - self.arrived
    }

    /// Whether any byte leaves before the digest has matched, or it has matched.
    pub(super) const fn leaves_early(self) -> bool {
        self.verified || self.size > WITHHELD_BYTES
    }

    /// More has arrived; `None` when that would be more than the blob has.
    pub(super) fn arrive(mut self, bytes: u64) -> Option<Self> {
        self.arrived = self.arrived.checked_add(bytes).filter(|&arrived| arrived <= self.size)?;
        Some(self)
    }

    /// The digest of what arrived is the one that was asked for.
    pub(super) fn verify(mut self) -> Self {
        debug_assert_eq!(self.arrived, self.size, "a digest is of a whole blob");
        self.verified = true;
        self
    }

    /// One past the last byte that may leave.
    pub(super) fn readable(self) -> u64 {
        if self.verified {
            return self.size;
        }
        self.arrived.min(self.size.saturating_sub(WITHHELD_BYTES))
    }

    /// The next piece for a reader that stands at `at` and reads up to `to`.
    pub(super) fn next(self, at: u64, to: u64) -> Option<(u64, u64)> {
        let end = self.readable().min(to);
        let boundary = (at / CHUNK_BYTES + 1) * CHUNK_BYTES;
        (at < end).then_some((at, end.min(boundary)))
    }

    /// Whether a fill goes on that nobody reads any more.
    pub(super) const fn goes_on_alone(self, abandoned_bytes_max: u64) -> bool {
        self.missing() <= abandoned_bytes_max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_bytes_stay_until_the_digest_has_matched() {
        let size = 3 * WITHHELD_BYTES;
        let window = Window::new(size).arrive(10).unwrap();
        assert_eq!(window.readable(), 10);
        let whole = window.arrive(size - 10).unwrap();
        assert_eq!(whole.readable(), 2 * WITHHELD_BYTES);
        assert_eq!(whole.next(2 * WITHHELD_BYTES, size), None);
        assert_eq!(whole.verify().readable(), size);
        assert_eq!(whole.arrive(1), None);
        assert_eq!(whole.arrive(u64::MAX), None);
        let small = Window::new(WITHHELD_BYTES).arrive(WITHHELD_BYTES).unwrap();
        assert_eq!((small.readable(), small.verify().readable()), (0, WITHHELD_BYTES));
    }

    #[test]
    fn an_abandoned_fill_goes_on_when_little_is_left() {
        let window = Window::new(100).arrive(40).unwrap();
        assert!(window.goes_on_alone(60) && !window.goes_on_alone(59));
    }

    proptest! {
        #[test]
        fn readers_see_every_byte_once_and_none_too_early(
            size in 0..5 * CHUNK_BYTES,
            steps in prop::collection::vec(0..CHUNK_BYTES, 0..12),
            from in 0..5 * CHUNK_BYTES,
        ) {
            let (mut window, mut at) = (Window::new(size), from);
            let read = |window: Window, at: &mut u64| {
                while let Some((first, end)) = window.next(*at, size) {
                    assert!(first == *at && end > first && end - first <= CHUNK_BYTES);
                    assert!(end <= window.readable() && end <= window.arrived());
                    *at = end;
                }
            };
            for step in steps {
                window = window.arrive(step.min(window.missing())).unwrap();
                read(window, &mut at);
            }
            window = window.arrive(window.missing()).unwrap();
            read(window, &mut at);
            prop_assert!(size == 0 || at < size || from >= size);
            read(window.verify(), &mut at);
            prop_assert_eq!(at, size.max(from));
        }
    }
}
