//! distribution-spec 1.1.1, "Content Discovery": tags, and the catalog that clients know from
//! docker's registry.

use serde_json::Value;

use super::subject::{Answer, Content, Repository, answer};

/// Tags in no order at all.
const TAGS: [&str; 7] = ["v2", "_x", "A", "v10", "a.b", "v1", "latest"];

/// The repository with [`TAGS`], and those in the order of their bytes.
async fn tagged(repository: &Repository) -> Vec<String> {
    let image = repository.push_image(TAGS[0]).await;
    for tag in &TAGS[1..] {
        repository.put_manifest(tag, &image).await.is(201);
    }
    let mut sorted: Vec<String> = TAGS.map(str::to_owned).to_vec();
    sorted.sort();
    sorted
}

#[track_caller]
fn names(answer: &Answer, list: &str) -> Vec<String> {
    let body = answer.json();
    let list = body[list].as_array().unwrap_or_else(|| panic!("no {list} in {body}"));
    list.iter().map(|name| name.as_str().expect("a text").to_owned()).collect()
}

async fn tags(repository: &Repository, query: &str) -> Answer {
    repository.get(&format!("tags/list{query}")).await.is(200)
}

/// "Listing Tags": name and tags, sorted.
pub(super) async fn tags_are_listed_in_order(repository: &Repository) {
    let sorted = tagged(repository).await;
    let list = tags(repository, "").await;
    assert_eq!(list.json()["name"], Value::from(repository.name.clone()));
    assert!(list.header("content-type").starts_with("application/json"));
    assert_eq!(names(&list, "tags"), sorted);
    assert!(list.next().is_none());
}

/// "Listing Tags": at most `n`; fewer only where no more are there or a Link says so.
pub(super) async fn a_list_has_as_many_tags_as_asked_for(repository: &Repository) {
    let sorted = tagged(repository).await;
    for n in [1, 3, 6] {
        let list = tags(repository, &format!("?n={n}")).await;
        assert_eq!(names(&list, "tags"), sorted[..n]);
    }
    for n in [7, 8, 500] {
        let list = tags(repository, &format!("?n={n}")).await;
        assert_eq!(names(&list, "tags"), sorted);
        assert!(list.next().is_none(), "nothing follows");
    }
}

/// "Listing Tags": `n=0` is an empty list without a Link.
pub(super) async fn a_list_of_no_tags_is_empty(repository: &Repository) {
    tagged(repository).await;
    let list = tags(repository, "?n=0").await;
    assert_eq!(names(&list, "tags"), [""; 0]);
    assert!(!list.has("link"));
}

/// "Listing Tags": after `last`, which need not be a tag.
pub(super) async fn a_list_begins_after_the_last_one(repository: &Repository) {
    let sorted = tagged(repository).await;
    for (place, last) in sorted.iter().enumerate() {
        let rest = names(&tags(repository, &format!("?last={last}")).await, "tags");
        assert_eq!(rest, sorted[place + 1..]);
        let one = names(&tags(repository, &format!("?n=1&last={last}")).await, "tags");
        assert_eq!(one, sorted[place + 1..].iter().take(1).cloned().collect::<Vec<_>>());
    }
    let between = names(&tags(repository, "?last=v1z&n=1").await, "tags");
    assert_eq!(between, ["v2"]);
    for nothing in ["zzz", "v2%2F", "~"] {
        assert_eq!(names(&tags(repository, &format!("?last={nothing}")).await, "tags"), [""; 0]);
    }
}

/// "Listing Tags": `Link` with `rel="next"` leads to the rest.
pub(super) async fn pages_of_tags_lead_to_each_other(repository: &Repository) {
    let sorted = tagged(repository).await;
    let mut page = tags(repository, "?n=2").await;
    let mut found = names(&page, "tags");
    while let Some(next) = page.next() {
        page = repository.get_url(next).await.is(200);
        let more = names(&page, "tags");
        assert!(!more.is_empty() && more.len() <= 2);
        found.extend(more);
    }
    assert_eq!(found, sorted);
}

/// A page has its bound, whatever is asked.
pub(super) async fn a_huge_number_of_tags_is_no_error(repository: &Repository) {
    let sorted = tagged(repository).await;
    for n in ["1000000", "18446744073709551615", "99999999999999999999999"] {
        assert_eq!(names(&tags(repository, &format!("?n={n}")).await, "tags"), sorted);
    }
    for n in ["-1", "x", "1.5", ""] {
        let (refused, _) = repository.get(&format!("tags/list?n={n}")).await.codes();
        refused.is(400);
    }
}

/// "Endpoints": 404 for a repository that is not there.
pub(super) async fn tags_of_an_unknown_repository_are_not_found(repository: &Repository) {
    repository.get("tags/list").await.refused(404, "NAME_UNKNOWN");
}

/// A repository may hold manifests and no tag.
pub(super) async fn a_repository_without_tags_lists_none(repository: &Repository) {
    let image = repository.push_image("v1").await;
    repository.delete("manifests/v1").await.is(202);
    repository.get(&format!("manifests/{}", image.digest)).await.is(200);
    assert_eq!(names(&tags(repository, "").await, "tags"), [""; 0]);
}

/// A digest is no tag.
pub(super) async fn what_was_pushed_by_digest_is_no_tag(repository: &Repository) {
    let image = repository.push_image("v1").await;
    let other = Content::index(&[&image]);
    repository.put_manifest(&other.digest, &other).await.is(201);
    assert_eq!(names(&tags(repository, "").await, "tags"), ["v1"]);
}

/// Of a name, and of names that begin with it: the separators sort on both sides of others.
fn names_that_begin_alike(repository: &Repository) -> Vec<Repository> {
    let begin = &repository.name;
    let ends = ["", "-b", "--b", "-b/c", ".b", "/a", "/a-b", "/a.b", "/a/b", "/b", "0", "_b", "b"];
    let mut names: Vec<String> = ends.iter().map(|end| format!("{begin}{end}")).collect();
    names.sort();
    names.iter().map(|name| repository.named(name)).collect()
}

/// Each repository lists its own tags, whatever others are called.
pub(super) async fn names_that_begin_alike_keep_their_tags(repository: &Repository) {
    let all = names_that_begin_alike(repository);
    for (number, one) in all.iter().enumerate() {
        one.push_image(&format!("t{number}")).await;
    }
    for (number, one) in all.iter().enumerate() {
        assert_eq!(names(&tags(one, "").await, "tags"), [format!("t{number}")], "{}", one.name);
    }
}

/// The catalog lists every repository once and in order, whatever the pages.
pub(super) async fn names_that_begin_alike_are_all_in_the_catalog(repository: &Repository) {
    let all = names_that_begin_alike(repository);
    for one in &all {
        one.push_image("v1").await;
    }
    let expected: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
    for n in [1, 2, 5, 13] {
        // Nothing sorts between this and the first of them.
        let mut last = repository.name[..repository.name.len() - 1].to_owned();
        let mut found: Vec<String> = Vec::new();
        while found.len() < expected.len() {
            let url = repository.root(&format!("/v2/_catalog?n={n}&last={last}"));
            let page = repository.get_url(url).await.is(200);
            let mine = |name: &String| name.starts_with(&repository.name);
            let more: Vec<String> = names(&page, "repositories").into_iter().filter(mine).collect();
            assert!(!more.is_empty(), "the catalog lost some of {expected:?} after {found:?}");
            found.extend(more);
            last.clone_from(found.last().expect("some were found"));
        }
        assert_eq!(found, expected, "in pages of {n}");
    }
}

/// The catalog's pages lead to each other.
pub(super) async fn pages_of_the_catalog_lead_to_each_other(repository: &Repository) {
    for one in [repository, &repository.other(), &repository.other()] {
        one.push_image("v1").await;
    }
    let mut page = repository.get_url(repository.root("/v2/_catalog?n=2")).await.is(200);
    let mut found = names(&page, "repositories");
    while let Some(next) = page.next() {
        page = repository.get_url(next).await.is(200);
        found.extend(names(&page, "repositories"));
    }
    assert!(found.contains(&repository.name));
    assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
    let none = repository.get_url(repository.root("/v2/_catalog?n=0")).await.is(200);
    assert_eq!((names(&none, "repositories").len(), none.has("link")), (0, false));
}

/// A HEAD of a list has no body.
pub(super) async fn head_of_a_list_has_no_body(repository: &Repository) {
    let image = repository.push_image("v1").await;
    for path in ["tags/list".to_owned(), format!("referrers/{}", image.digest)] {
        assert!(repository.head(&path).await.is(200).body.is_empty());
    }
    let unknown = repository.other().head("tags/list").await.is(404);
    assert!(unknown.body.is_empty());
    let catalog = repository.at(http::Method::HEAD, repository.root("/v2/_catalog"));
    assert!(answer(catalog).await.is(200).body.is_empty());
}
