//! The registry dies while it writes into a local directory: whenever one more file is there.
//!
//! Nothing stands between it and the disk, so that the kill comes a moment after the file, in the
//! middle of whatever comes next. What may be seen afterwards does not depend on when that was.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use longshore_tests::testkit::{Backend, Origin, Settings};

use super::WRITES_MAX;
use super::story::Story;
use crate::conformance::subject::Repository;
use crate::harness::on;

/// The files of a store, also those that are gone again.
struct Files {
    store: PathBuf,
    seen: BTreeSet<PathBuf>,
    before: usize,
}

impl Files {
    fn of(store: PathBuf) -> Self {
        let mut files = Self { store, seen: BTreeSet::new(), before: 0 };
        files.look();
        files.before = files.seen.len();
        files
    }

    /// How many have come since.
    fn look(&mut self) -> usize {
        add_below(&self.store, &mut self.seen);
        self.seen.len() - self.before
    }

    async fn have_come(&mut self, count: usize) {
        while self.look() < count {
            tokio::task::yield_now().await;
        }
    }
}

/// What goes away while it is read is not there.
fn add_below(directory: &Path, files: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => add_below(&entry.path(), files),
            Ok(_) => {
                files.insert(entry.path());
            }
            Err(_) => {}
        }
    }
}

/// SIGKILL after each file of the story, and a new process on what is left.
async fn killed_after_every_file(story: fn() -> Story, kills_min: usize) {
    on(Backend::Directory, async |stage| {
        let start = async |name: &str| {
            Origin::start_with(&stage.loopback, &stage.store, name, &Settings::default()).await
        };
        let store = stage.loopback.directory().join("store");
        let (mut origin, mut kills) = (start("registry").await?, 0);
        for count in 1..WRITES_MAX {
            let repository = Repository::new(&origin.url());
            let (mut story, mut files) = (story(), Files::of(store.clone()));
            let killed = async {
                files.have_come(count).await;
                origin.process().kill().await
            };
            let finished = tokio::select! {
                ended = story.run(&repository) => ended.is_some(),
                killed = killed => killed.map(|_| false)?,
            };
            let reached = files.look() >= count;
            assert!(finished || reached, "the story broke off by itself");
            if !reached {
                story.check(&repository).await;
                assert!(kills >= kills_min, "{kills} kills in a story of {count} files");
                return Ok(());
            }
            // It may have ended before the look, or broken off before the kill was waited for.
            origin.process().kill().await?;
            kills += usize::from(!finished);
            origin = start(&format!("registry-{count}")).await?;
            story.check(&repository.moved(&origin.url())).await;
        }
        panic!("the story has more than {WRITES_MAX} files");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_after_any_file_shows_nothing_half() {
    killed_after_every_file(Story::of_an_image, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_after_any_file_shows_no_partial_blob() {
    killed_after_every_file(Story::of_a_large_blob, 4).await;
}
