//! Byte ranges: of a blob, and as HTTP asks for them.
//!
//! Source: RFC 9110, section 14. One range per request; several, or another unit, are answered
//! as if there were none, which the RFC allows.

use std::fmt;

/// `offset..offset + length`, in bytes; never empty and never past `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

/// What a `Range` header asks for, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedRange {
    /// `bytes=N-`
    From(u64),
    /// `bytes=N-M`, both inclusive; one that ends before it begins cannot be satisfied. HTTP lets a
    /// server ignore it as well, but who asked for a part shall not get the whole.
    Between(u64, u64),
    /// `bytes=-N`: the last N bytes.
    Last(u64),
}

/// The range cannot be satisfied: answer 416 with `Content-Range: bytes */SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("range lies outside the content's {size} bytes")]
pub struct InvalidRange {
    /// The content's size.
    pub size: u64,
}

impl ByteRange {
    /// `None` when empty or past the end of the number line.
    pub fn new(offset: u64, length: u64) -> Option<Self> {
        offset.checked_add(length)?;
        (length > 0).then_some(Self { offset, length })
    }

    /// First byte.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Count of bytes, at least 1.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// One past the last byte.
    pub const fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// `bytes=first-last`, for a request.
    pub fn header_value(&self) -> String {
        format!("bytes={}-{}", self.offset, self.end() - 1)
    }

    /// `bytes first-last/size`, for an answer.
    pub fn content_range(&self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.offset, self.end() - 1)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.offset, self.end())
    }
}

impl RequestedRange {
    /// Reads a `Range` header; `None` means: answer the whole content.
    pub fn parse(header: &str) -> Option<Self> {
        let spec = header.trim().strip_prefix("bytes=")?;
        if spec.contains(',') {
            return None;
        }
        let (first, last) = spec.split_once('-')?;
        match (digits(first), digits(last)) {
            (Some(first), Some(last)) => Some(Self::Between(first, last)),
            (Some(first), None) if last.is_empty() => Some(Self::From(first)),
            (None, Some(count)) if first.is_empty() => Some(Self::Last(count)),
            _ => None,
        }
    }

    /// The bytes meant, once the size is known.
    pub fn resolve(self, size: u64) -> Result<ByteRange, InvalidRange> {
        let (first, end) = match self {
            Self::From(first) => (first, size),
            Self::Between(first, last) => (first, last.saturating_add(1).min(size)),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        let length = end.checked_sub(first).ok_or(InvalidRange { size })?;
        ByteRange::new(first, length).ok_or(InvalidRange { size })
    }
}

/// Only digits: `u64::from_str` would take a sign too.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(header: &str, size: u64) -> Option<Result<(u64, u64), InvalidRange>> {
        let range = RequestedRange::parse(header)?;
        Some(range.resolve(size).map(|r| (r.offset(), r.end())))
    }

    #[test]
    fn reads_the_three_forms() {
        assert_eq!(resolved("bytes=0-0", 10), Some(Ok((0, 1))));
        assert_eq!(resolved("bytes=4-", 10), Some(Ok((4, 10))));
        assert_eq!(resolved("bytes=-3", 10), Some(Ok((7, 10))));
        assert_eq!(resolved("bytes=-30", 10), Some(Ok((0, 10))));
        assert_eq!(resolved("bytes=4-18446744073709551615", 10), Some(Ok((4, 10))));
    }

    #[test]
    fn says_when_nothing_lies_in_range() {
        let outside = Some(Err(InvalidRange { size: 10 }));
        assert_eq!(resolved("bytes=10-", 10), outside);
        assert_eq!(resolved("bytes=11-20", 10), outside);
        assert_eq!(resolved("bytes=5-2", 10), outside);
        assert_eq!(resolved("bytes=5-4", 10), outside);
        assert_eq!(resolved("bytes=-0", 10), outside);
        assert_eq!(resolved("bytes=0-", 0), Some(Err(InvalidRange { size: 0 })));
    }

    #[test]
    fn answers_the_whole_where_the_header_says_nothing_sensible() {
        for header in ["bytes=1-2,4-5", "items=0-1", "bytes=-", "bytes=+1-2", "bytes=a-"] {
            assert_eq!(RequestedRange::parse(header), None, "{header}");
        }
    }
}
