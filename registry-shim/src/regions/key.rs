//! What regions must know about the layout's keys: their order, their repository, their times.

use longshore_proto::RepositoryName;
use object_store::path::Path;
use serde::Deserialize;

/// Prefixes of stores that belong to regions themselves, beside the layout.
const OWN: [&str; 2] = ["replica/", "regions/"];

/// Whether the key says something about the store that it lies in, and is never copied.
pub(super) fn is_local(key: &Path) -> bool {
    let key = key.as_ref();
    key == "probe" || key.starts_with("capabilities/") || OWN.iter().any(|own| key.starts_with(own))
}

/// Bytes of blobs: large, and never written twice.
pub(super) fn is_data(key: &Path) -> bool {
    key.as_ref().starts_with("data/")
}

/// Uploads under way, which are not copied: a client whose upload is unknown begins it again. One
/// that was begun without the primary goes on after its return.
pub(super) fn is_transient(key: &Path) -> bool {
    key.as_ref().starts_with("up/")
}

/// Whether the key is a tag, the one record that changes.
pub(super) fn is_tag(key: &Path) -> bool {
    in_repository(key).is_some_and(|(_, rest)| rest.starts_with("tag/"))
}

/// The directory of the pointers of a blob whose membership the key is.
pub(super) fn pointers_of_member(key: &Path) -> Option<Path> {
    let (_, rest) = in_repository(key)?;
    let (algorithm, hex) = rest.strip_prefix("blob/")?.split_once('/')?;
    Some(Path::from(format!("blob/{algorithm}/{}/{hex}", hex.get(..2)?)))
}

/// The repository whose content a key is: what is missing there, a client would miss.
pub(super) fn scope_of(key: &Path) -> Option<RepositoryName> {
    let name = match in_repository(key) {
        Some((name, _)) => name,
        None => key.as_ref().strip_prefix("cat/")?.strip_suffix('!')?,
    };
    name.parse().ok()
}

/// Copied in this order, an object comes after what it names: bytes, pointers, members,
/// manifests, and tags last.
pub(super) fn rank(key: &Path) -> u8 {
    let text = key.as_ref();
    match in_repository(key) {
        Some((_, rest)) if rest.starts_with("blob/") => 2,
        Some((_, rest)) if rest.starts_with("man/") => 3,
        Some((_, rest)) if rest.starts_with("tag/") => 5,
        Some(_) => 4,
        None if text.starts_with("data/") => 0,
        None if text.starts_with("cat/") => 4,
        None => 1,
    }
}

/// When the tag in a record was pushed.
pub(super) fn tag_time_ms(record: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Time {
        time_ms: u64,
    }
    serde_json::from_slice::<Time>(record).ok().map(|record| record.time_ms)
}

/// Keys of the segments that a pointer names.
pub(super) fn segments_of(pointer: &[u8]) -> Vec<Path> {
    #[derive(Deserialize)]
    struct Record {
        segments: Vec<Segment>,
    }
    #[derive(Deserialize)]
    struct Segment {
        key: String,
    }
    let record = serde_json::from_slice::<Record>(pointer).ok();
    let segments = record.map(|record| record.segments).unwrap_or_default();
    segments.into_iter().map(|segment| Path::from(segment.key)).collect()
}

fn in_repository(key: &Path) -> Option<(&str, &str)> {
    key.as_ref().strip_prefix("repo/")?.split_once("!/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_the_layout_spells_them() {
        let hex = "ab".repeat(32);
        let member = Path::from(format!("repo/a/b!/blob/sha256/{hex}"));
        assert_eq!(pointers_of_member(&member), Some(format!("blob/sha256/ab/{hex}").into()));
        let tag = Path::from("repo/a/b!/tag/v1");
        let history = Path::from("repo/a/b!/log/v1!/00000000000000000001-x");
        assert!(is_tag(&tag) && !is_tag(&member) && !is_tag(&history));
        let (data, catalog) = (Path::from("data/ab/20250101/x"), Path::from("cat/a/b!"));
        for (key, scope) in [(&tag, true), (&member, true), (&catalog, true), (&data, false)] {
            assert_eq!(scope_of(key).map(|name| name.to_string()), scope.then(|| "a/b".into()));
        }
        assert!(rank(&data) < rank(&member) && rank(&member) < rank(&tag));
        assert!(rank(&history) < rank(&tag));
        assert!(is_local(&Path::from("replica/eu/data/x")) && is_local(&Path::from("probe")));
        assert!(!is_local(&data));
    }
}
