//! The tail of an upload: many small segments at its end become one.
//!
//! Each request's progress names all segments, so that thousands of tiny chunks would cost their
//! square. Segments of like size are joined when there are [`JOINED_AT`] of them, as digits carry:
//! few small ones stand at the end, and a byte is written again as often as the logarithm of
//! [`SMALL_BYTES`] says. What was joined is not deleted: a slower request may still build upon it,
//! and a commit that wins the upload's end may name it. The collector takes what no pointer names.

use futures::TryStreamExt as _;

use super::upload::Appender;
use super::{Pointer, Progress, Segment, SegmentWriter, Storage, StorageError};

/// So many of like size become one.
const JOINED_AT: usize = 8;
/// Segments of this length and more are left alone: one for each four MiB is few enough.
const SMALL_BYTES: u64 = 4 * 1024 * 1024;

impl Storage {
    /// Makes the request's bytes a segment of the upload, with what stands before them where that is
    /// as small.
    pub(super) async fn finish_joined(&self, appender: Appender) -> Result<Progress, StorageError> {
        let (mut progress, writer) = appender.into_parts();
        let joined = joined(progress.segments(), writer.length());
        if joined == 0 {
            progress.push(writer.finish().await?);
            return Ok(progress);
        }
        let small = progress.take_last(joined);
        let mut whole = self.segment();
        if let Err(error) = self.fill(&mut whole, small, writer).await {
            whole.abort().await;
            return Err(error);
        }
        progress.push(whole.finish().await?);
        Ok(progress)
    }

    async fn fill(
        &self,
        whole: &mut SegmentWriter,
        small: Vec<Segment>,
        last: SegmentWriter,
    ) -> Result<(), StorageError> {
        let size = small.iter().map(|segment| segment.len).sum();
        let before = Pointer { generation: String::new(), size, segments: small };
        let mut bytes = self.stream(&before, None);
        while let Some(chunk) = bytes.try_next().await? {
            whole.write(chunk).await?;
        }
        for chunk in last.into_unsent() {
            whole.write(chunk).await?;
        }
        Ok(())
    }
}

/// How many of the last segments become one with `new` bytes behind them.
fn joined(segments: &[Segment], new: u64) -> usize {
    let (mut joined, mut length) = (0, new);
    while (1..SMALL_BYTES).contains(&length) {
        let before = segments[..segments.len() - joined].iter().rev();
        let alike = before
            .take_while(|segment| segment.len < SMALL_BYTES && class(segment.len) <= class(length));
        let (count, bytes) = alike.fold((0, 0), |(count, bytes), s| (count + 1, bytes + s.len));
        if count + 1 < JOINED_AT {
            break;
        }
        (joined, length) = (joined + count, length + bytes);
    }
    joined
}

/// Lengths of one class differ by less than [`JOINED_AT`] times.
const fn class(length: u64) -> u32 {
    match length {
        0 => 0,
        _ => length.ilog2() / JOINED_AT.ilog2(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Kinds of small lengths.
    const CLASSES: usize = class(SMALL_BYTES) as usize + 1;
    /// Small segments that stand at the end of an upload.
    const SMALL_MAX: usize = (JOINED_AT - 1) * CLASSES;

    fn segment(len: u64) -> Segment {
        Segment { key: String::new(), len }
    }

    /// What is left of chunks of these lengths, and the bytes that were written.
    fn uploaded(chunks: impl IntoIterator<Item = u64>) -> (Vec<Segment>, u64) {
        let (mut segments, mut written) = (Vec::new(), 0);
        for chunk in chunks {
            let joined = joined(&segments, chunk);
            let small = segments.split_off(segments.len() - joined);
            let whole = small.iter().map(|segment: &Segment| segment.len).sum::<u64>() + chunk;
            segments.push(segment(whole));
            written += whole;
        }
        (segments, written)
    }

    #[test]
    fn a_few_chunks_and_large_ones_stay_as_they_came() {
        assert_eq!(uploaded([1; 7]).0.len(), 7);
        assert_eq!(uploaded([SMALL_BYTES; 100]).0.len(), 100);
        let mixed = [1000, SMALL_BYTES, 1000, SMALL_BYTES, 1000, SMALL_BYTES, 1000, 1000, 1000];
        assert_eq!(uploaded(mixed).0.len(), mixed.len());
    }

    #[test]
    fn eight_alike_become_one_and_eight_of_those_too() {
        let lengths = |chunks: usize| -> Vec<u64> {
            uploaded(vec![1024; chunks]).0.iter().map(|segment| segment.len).collect()
        };
        assert_eq!(lengths(8), [8192]);
        assert_eq!(lengths(9), [8192, 1024]);
        assert_eq!(lengths(64), [65536]);
    }

    proptest! {
        #[test]
        fn small_segments_stay_few_and_bytes_are_written_seldom(
            chunks in proptest::collection::vec((0_u32..22).prop_flat_map(|bits| 1_u64..=1 << bits), 0..600)
        ) {
            let total: u64 = chunks.iter().sum();
            let (segments, written) = uploaded(chunks);
            prop_assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), total);
            let large = segments.iter().filter(|segment| segment.len >= SMALL_BYTES).count();
            prop_assert!(segments.len() <= (large + 1) * SMALL_MAX);
            prop_assert!(written <= total * (CLASSES as u64 + 1), "{} of {}", written, total);
        }
    }
}
