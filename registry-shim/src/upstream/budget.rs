//! How many bytes all spools of this instance may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::UpstreamError;

/// The bound and what is taken of it.
#[derive(Debug)]
pub(super) struct Budget {
    /// `None`: as much as the disk has.
    bytes_max: Option<u64>,
    taken: AtomicU64,
}

/// A share of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(bytes_max: Option<u64>) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: AtomicU64::new(0) })
    }

    /// So many bytes, or an error.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<Taken, UpstreamError> {
        let mut taken = Taken { budget: self.clone(), bytes: 0 };
        taken.grow_to(bytes)?;
        Ok(taken)
    }
}

impl Taken {
    /// So many in all; those that are taken stay when there are no more.
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<(), UpstreamError> {
        let more = bytes.saturating_sub(self.bytes);
        let fits = |taken: u64| {
            let sum = taken.checked_add(more)?;
            self.budget.bytes_max.is_none_or(|max| sum <= max).then_some(sum)
        };
        let (relaxed, taken) = (Ordering::Relaxed, &self.budget.taken);
        taken.fetch_update(relaxed, relaxed, fits).map_err(|_| UpstreamError::SpoolFull)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let budget = Budget::new(Some(10));
        let mut first = budget.take(4).unwrap();
        let second = budget.take(6).unwrap();
        assert_eq!(budget.take(1).unwrap_err(), UpstreamError::SpoolFull);
        assert_eq!(first.grow_to(5), Err(UpstreamError::SpoolFull));
        drop(second);
        first.grow_to(5).unwrap();
        first.grow_to(3).unwrap();
        assert!(budget.take(6).is_err() && budget.take(5).is_ok());
        assert!(budget.take(u64::MAX).is_err());
        assert!(Budget::new(None).take(u64::MAX).is_ok());
    }
}
