//! What can go wrong with a stream of bytes, as a state machine without I/O.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

/// One way to misbehave. Offsets count the bytes of one connection or one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// None: bytes pass.
    #[default]
    Pass,
    /// The first byte comes late.
    Delay(Duration),
    /// So many bytes pass, then nothing more comes, and the stream stays open.
    StallAfter(u64),
    /// So many bytes pass, then the stream breaks.
    CutAfter(u64),
    /// One bit of the byte at this offset is wrong.
    CorruptAt(u64),
    /// The request is answered with this status and not passed on. Of a TCP proxy: as `CutAfter(0)`.
    Status(u16),
}

/// What to do with bytes that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass these on and read more.
    Pass(Bytes),
    /// Pass these on, then stay silent.
    Stall(Bytes),
    /// Pass these on, then break.
    Cut(Bytes),
}

impl Fault {
    /// Applies the fault to `bytes`, the next after the first `passed` of the stream.
    pub(super) fn step(self, passed: u64, mut bytes: Bytes) -> Step {
        let left = |limit: u64| usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX);
        match self {
            Self::Pass | Self::Delay(_) => Step::Pass(bytes),
            Self::Status(_) => Step::Cut(Bytes::new()),
            Self::StallAfter(limit) if left(limit) < bytes.len() => {
                Step::Stall(bytes.split_to(left(limit)))
            }
            Self::CutAfter(limit) if left(limit) < bytes.len() => {
                Step::Cut(bytes.split_to(left(limit)))
            }
            Self::StallAfter(_) | Self::CutAfter(_) => Step::Pass(bytes),
            Self::CorruptAt(offset) => Step::Pass(corrupt(offset.checked_sub(passed), bytes)),
        }
    }
}

fn corrupt(at: Option<u64>, bytes: Bytes) -> Bytes {
    let Some(at) = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < bytes.len()) else {
        return bytes;
    };
    let mut wrong = BytesMut::from(bytes);
    wrong[at] ^= 1;
    wrong.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Bytes = Bytes::from_static(b"0123456789");

    #[test]
    fn a_limit_cuts_inside_the_chunk_that_crosses_it() {
        assert_eq!(Fault::StallAfter(14).step(10, BYTES), Step::Stall(Bytes::from_static(b"0123")));
        assert_eq!(Fault::CutAfter(10).step(10, BYTES), Step::Cut(Bytes::new()));
        assert_eq!(Fault::CutAfter(20).step(10, BYTES), Step::Pass(BYTES));
    }

    #[test]
    fn one_byte_is_wrong_and_only_once() {
        let wrong = Step::Pass(Bytes::from_static(b"0023456789"));
        assert_eq!(Fault::CorruptAt(11).step(10, BYTES), wrong);
        assert_eq!(Fault::CorruptAt(11).step(20, BYTES), Step::Pass(BYTES));
        assert_eq!(Fault::CorruptAt(20).step(10, BYTES), Step::Pass(BYTES));
    }
}
