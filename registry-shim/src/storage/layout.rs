//! The keys: where each fact lies in the store.
//!
//! Owns the spelling of every key and nothing else. Names and digests reach it as parsed types, so
//! no request can name a key of another kind. `!` sorts below every character of a repository name
//! and ends one, so that `a`, `a/b` and `a-b` never mix in a listing.

use longshore_proto::{Algorithm, Digest, RepositoryName, Tag};
use object_store::path::Path;
use uuid::Uuid;

use super::{Item, Project};

/// Digits of an offset in a key: all of a `u64`, so that keys sort as numbers.
const OFFSET_DIGITS: usize = 20;

/// Bytes of one upload segment. The hash stands first: a date first would be one hot partition.
pub(super) fn data(id: Uuid, date: &str) -> Path {
    let id = id.simple().to_string();
    Path::from(format!("data/{}/{date}/{id}", &id[..2]))
}

/// Whether the key is a segment's; all other objects are small.
pub(super) fn is_data(key: &Path) -> bool {
    key.as_ref().starts_with("data/")
}

/// Written to find out what the store does, and deleted at once.
pub(super) fn capabilities(id: Uuid) -> Path {
    Path::from(format!("capabilities/{}", id.simple()))
}

/// All generations of a blob's pointer.
pub(super) fn pointers(digest: &Digest) -> Path {
    Path::from(format!("blob/{}", spread(digest)))
}

/// One generation of a blob's pointer.
pub(super) fn pointer(digest: &Digest, generation: &str) -> Path {
    pointers(digest).join(generation)
}

/// A generation whose bytes were brought together. It sorts before all that pushes write.
pub(super) fn composed_generation(id: Uuid) -> String {
    format!("!{}", id.simple())
}

/// Where one who brings a blob's bytes together says so. It lies among the uploads, so that the
/// collector takes one that its owner left behind.
pub(super) fn composing(digest: &Digest) -> Path {
    Path::from(format!("up/{}/compose", &digest.hex()[..32]))
}

/// All reverse references of a blob.
pub(super) fn reverse_references(digest: &Digest) -> Path {
    Path::from(format!("bref/{}", spread(digest)))
}

/// The blob's hash states.
pub(super) fn states(digest: &Digest) -> Path {
    Path::from(format!("states/{}", spread(digest)))
}

/// "This repository holds the blob", found from the blob.
pub(super) fn reverse_reference(digest: &Digest, repository: &RepositoryName) -> Path {
    Path::from(format!("bref/{}/{repository}!blob", spread(digest)))
}

/// "This repository holds the blob", found from the repository.
pub(super) fn membership(repository: &RepositoryName, digest: &Digest) -> Path {
    Path::from(format!("repo/{repository}!/blob/{}", flat(digest)))
}

/// A manifest with its media type.
pub(super) fn manifest(repository: &RepositoryName, digest: &Digest) -> Path {
    Path::from(format!("repo/{repository}!/man/{}", flat(digest)))
}

/// All tags of a repository.
pub(super) fn tags(repository: &RepositoryName) -> Path {
    Path::from(format!("repo/{repository}!/tag"))
}

/// One tag.
pub(super) fn tag(repository: &RepositoryName, tag: &Tag) -> Path {
    tags(repository).join(tag.as_str())
}

/// One entry of a tag's history; the newest sorts first.
pub(super) fn tag_log(repository: &RepositoryName, tag: &Tag, at_ms: u64, id: Uuid) -> Path {
    let inverse = u64::MAX - at_ms;
    let id = id.simple();
    Path::from(format!("repo/{repository}!/log/{tag}!/{inverse:0OFFSET_DIGITS$}-{id}"))
}

/// All referrers of a subject.
pub(super) fn referrers(repository: &RepositoryName, subject: &Digest) -> Path {
    Path::from(format!("repo/{repository}!/ref/{}", flat(subject)))
}

/// One referrer of a subject.
pub(super) fn referrer(repository: &RepositoryName, subject: &Digest, digest: &Digest) -> Path {
    Path::from(format!("repo/{repository}!/ref/{}/{}", flat(subject), flat(digest)))
}

/// All repositories.
pub(super) fn catalog() -> Path {
    Path::from("cat")
}

/// One repository.
pub(super) fn catalog_entry(repository: &RepositoryName) -> Path {
    Path::from(format!("cat/{repository}!"))
}

/// The repository that a catalog key names.
pub(super) fn repository_of_catalog(key: &Path) -> Option<RepositoryName> {
    key.as_ref().strip_prefix("cat/")?.strip_suffix('!')?.parse().ok()
}

/// Everything of an upload.
pub(super) fn upload(id: Uuid) -> Path {
    Path::from(format!("up/{}", id.simple()))
}

/// Who may go on with an upload, and until when.
pub(super) fn upload_session(id: Uuid) -> Path {
    upload(id).join("session")
}

/// Created once, by whoever commits or cancels the upload.
pub(super) fn upload_end(id: Uuid) -> Path {
    upload(id).join("end")
}

/// What has arrived of an upload, hashed again with another algorithm.
pub(super) fn upload_rehashed(id: Uuid, algorithm: Algorithm) -> Path {
    upload(id).join("as").join(algorithm.name())
}

/// All progress of an upload.
pub(super) fn upload_progresses(id: Uuid) -> Path {
    upload(id).join("from")
}

/// What the request that began at `offset` added. Created once: of two requests that begin at one
/// offset one wins.
pub(super) fn upload_progress(id: Uuid, offset: u64) -> Path {
    upload_progresses(id).join(format!("{offset:0OFFSET_DIGITS$}"))
}

/// Reverse references of the project's repositories that have more than one segment.
pub(super) fn reverse_references_in(digest: &Digest, project: &Project) -> Path {
    Path::from(format!("bref/{}/{project}", spread(digest)))
}

/// Reverse references of the repository that is called as the project is.
pub(super) fn reverse_reference_at(digest: &Digest, project: &Project) -> Path {
    Path::from(format!("bref/{}/{project}!blob", spread(digest)))
}

/// All keys of a project's repositories: of those with more segments, and of its namesake.
pub(super) fn repositories_of_project(project: &Project) -> [Path; 2] {
    [Path::from(format!("repo/{project}")), Path::from(format!("repo/{project}!"))]
}

/// A project's catalog entries: of the repositories with more segments, and of its namesake.
pub(super) fn catalog_of_project(project: &Project) -> [Path; 2] {
    [Path::from(format!("cat/{project}")), Path::from(format!("cat/{project}!"))]
}

/// All projects that pay for something.
pub(super) fn charged_projects() -> Path {
    Path::from("proj")
}

/// All that a project pays for.
pub(super) fn charges(project: &Project) -> Path {
    Path::from(format!("proj/{project}!/blob"))
}

/// "This project pays for so many bytes": the size stands in the key, so that a listing counts.
pub(super) fn charge(project: &Project, digest: &Digest, size: u64) -> Path {
    Path::from(format!("proj/{project}!/blob/{}-{size}", flat(digest)))
}

/// All leases of a project's headroom.
pub(super) fn slots(project: &Project) -> Path {
    Path::from(format!("quota/{project}!/slot"))
}

/// One lease.
pub(super) fn slot(project: &Project, number: u64) -> Path {
    slots(project).join(format!("{number:0OFFSET_DIGITS$}"))
}

/// "The collector means to take this", until somebody claims it.
pub(super) fn item_tombstone(repository: &RepositoryName, item: Item) -> Path {
    let (kind, digest) = match item {
        Item::Blob(digest) => ("blob", digest),
        Item::Manifest(digest) => ("man", digest),
    };
    Path::from(format!("repo/{repository}!/tomb/{kind}/{}", flat(&digest)))
}

/// All generations of a blob's pointer that are never to be used again.
pub(super) fn pointer_tombstones(digest: &Digest) -> Path {
    Path::from(format!("gc/tomb/{}", spread(digest)))
}

/// Where collectors say on which repository they work.
pub(super) fn windows() -> Path {
    Path::from("gc/run/window")
}

/// Where one collector says it.
pub(super) fn window(id: Uuid) -> Path {
    windows().join(id.simple().to_string())
}

/// `sha256/ab/abcd…`: two characters in between spread the keys over the store's partitions.
fn spread(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}/{}/{hex}", digest.algorithm().name(), &hex[..2])
}

fn flat(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm().name(), digest.hex())
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;

    use super::*;

    #[test]
    fn a_name_that_begins_another_keeps_its_own_keys() {
        let prefix = tags(&"a".parse().unwrap());
        for other in ["a/b", "a-b", "a.b", "ab"] {
            let key = tag(&other.parse().unwrap(), &"t".parse().unwrap());
            assert!(!key.prefix_matches(&prefix), "{key} lies in {prefix}");
        }
    }

    #[test]
    fn a_catalog_key_names_its_repository() {
        let repository: RepositoryName = "a/b-c".parse().unwrap();
        assert_eq!(repository_of_catalog(&catalog_entry(&repository)), Some(repository));
    }

    #[test]
    fn the_layout_is_fixed() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let repository = "a/b".parse().unwrap();
        let keys = [
            pointer(&digest, "g"),
            states(&digest),
            reverse_reference(&digest, &repository),
            membership(&repository, &digest),
            manifest(&repository, &digest),
            upload_progress(Uuid::nil(), 7),
            charge(&Project::of(&repository), &digest, 7),
            slot(&Project::of(&repository), 7),
        ];
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected = [
            format!("blob/sha256/e3/{hex}/g"),
            format!("states/sha256/e3/{hex}"),
            format!("bref/sha256/e3/{hex}/a/b!blob"),
            format!("repo/a/b!/blob/sha256/{hex}"),
            format!("repo/a/b!/man/sha256/{hex}"),
            "up/00000000000000000000000000000000/from/00000000000000000007".to_owned(),
            format!("proj/a!/blob/sha256/{hex}-7"),
            "quota/a!/slot/00000000000000000007".to_owned(),
        ];
        assert_eq!(keys.map(|key| key.to_string()), expected);
    }
}
