//! The range of a chunk, as its client says it and as it is told.
//!
//! Source: distribution-spec 1.1.1, "Pushing a blob in chunks".

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, RANGE};
use longshore_proto::ErrorCode;

use super::{ApiError, header_value};

/// Refuses a chunk that does not begin at `offset`, where the last one ended.
pub(super) fn check_order(headers: &HeaderMap, offset: u64) -> Result<(), ApiError> {
    match content_range(headers)? {
        Some((first, _)) if first != offset => {
            let message = format!("chunk begins at {first} and not at {offset}");
            Err(ApiError::new(ErrorCode::BlobUploadInvalid, message)
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                .with_header(RANGE, header_value(received(offset))))
        }
        _ => Ok(()),
    }
}

/// Bytes that the body must have, where `Content-Range` says it.
pub(super) fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    Ok(content_range(headers)?.map(|(first, last)| last - first + 1))
}

/// Bytes that the body will have, where the client says it.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What has arrived, as the last byte's position; nothing looks like one byte, as in every
/// registry since docker's.
pub(super) fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// `Content-Range: <first>-<last>` of a chunk, with or without HTTP's own unit in front.
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, ApiError> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    // An empty last request is written `0--1` or so by some: it adds nothing, wherever it begins.
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        return Ok(None);
    }
    let parse = || {
        let text = value.to_str().ok()?;
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let text = text.split('/').next()?;
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last && last < u64::MAX).then_some((first, last))
    };
    let malformed =
        || ApiError::new(ErrorCode::BlobUploadInvalid, "Content-Range is not FIRST-LAST");
    parse().ok_or_else(malformed).map(Some)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn reads_the_ranges_of_chunks() {
        let read = |text: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]);
            content_range(&headers).ok()
        };
        assert_eq!(read("0-9"), Some(Some((0, 9))));
        assert_eq!(read("bytes 5-9/10"), Some(Some((5, 9))));
        for bad in ["", "9-5", "a-b", "0-18446744073709551615", "-1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
