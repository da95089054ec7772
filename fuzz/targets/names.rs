//! Names, references, digests and ranges: what is read is written as it was, or another spelling
//! would be another key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_proto::{Digest, ImageName, Reference, RepositoryName, RequestedRange, Tag};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.as_str(), text);
        assert!(text.len() <= 255 && text.split('/').all(|part| !matches!(part, "" | "." | "..")));
        assert!(text.starts_with(name.project()));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(text.len() <= 128 && !text.contains(['/', ':']) && !text.starts_with('.'));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(image) = text.parse::<ImageName>() {
        assert_eq!(image.to_string().parse(), Ok(image));
    }
    let Some((size, header)) = data.split_first_chunk() else { return };
    let size = u64::from_be_bytes(*size);
    let header = std::str::from_utf8(header).ok().and_then(RequestedRange::parse);
    if let Some(Ok(range)) = header.map(|range| range.resolve(size)) {
        assert!(range.length() > 0 && range.end() <= size);
    }
});
