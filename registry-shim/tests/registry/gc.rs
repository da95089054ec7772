//! `longshore-registry gc` as a process, beside a registry that serves: killed in the middle, again
//! and again, and gone on with.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_proto::Digest;
use reqwest::StatusCode;

use crate::common::{TestRegistry, content, sha256};

/// Longer than every grace.
const LONG: Duration = Duration::from_secs(200 * 3600);
/// Deletions after which a collection is killed.
const KILLED_AFTER: [usize; 7] = [1, 2, 3, 4, 6, 9, 13];

fn gc(registry: &TestRegistry, arguments: &[&str]) -> Command {
    let directory = registry.directory.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
    command.env_clear().arg("gc").args(arguments);
    command.env("LONGSHORE_STORAGE_URL", format!("file://{}", directory.join("store").display()));
    command.env("LONGSHORE_IDENTITY_SIGNING_KEY_FILE", directory.join("keys/signing.pem"));
    command
}

fn report(registry: &TestRegistry, arguments: &[&str]) -> serde_json::Value {
    let arguments = [&["--json", "--take-over"], arguments].concat();
    let output = gc(registry, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every file below, the collector's own left out.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn count(store: &Path) -> usize {
    let is_own = |path: &Path| {
        path.strip_prefix(store).unwrap().starts_with("gc") || path.iter().any(|p| p == "tomb")
    };
    files(store).iter().filter(|path| !is_own(path)).count()
}

/// Time goes by.
fn age(store: &Path) {
    for path in files(store) {
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - LONG).unwrap();
    }
}

/// Whether it was killed before it ended.
fn kill_after(mut child: Child, store: &Path, before: usize, deletions: usize) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if before - count(store).min(before) >= deletions {
            child.kill().unwrap();
            return child.wait().unwrap().code().is_none();
        }
    }
}

async fn pull(registry: &TestRegistry, repository: &str, manifest: &Digest, layers: &[&[u8]]) {
    let found = registry.get(&format!("/v2/{repository}/manifests/{manifest}")).await;
    assert_eq!(found.status(), StatusCode::OK);
    for layer in layers {
        let blob = registry.get(&format!("/v2/{repository}/blobs/{}", sha256(layer))).await;
        assert_eq!(blob.bytes().await.unwrap(), *layer);
    }
}

#[tokio::test]
async fn a_collection_that_is_killed_loses_nothing_and_is_gone_on_with() {
    let registry = TestRegistry::start().await;
    let (shared, own) = (content(5000, 1), content(3000, 2));
    let kept = registry.push_image("team/kept", "v1", &[&shared, &own]).await;
    for number in 0..6 {
        let (repository, layer) = (format!("team/gone-{number}"), content(1000, 10 + number));
        let gone = registry.push_image(&repository, "v1", &[&shared, &layer]).await;
        let deleted = registry.delete(&format!("/v2/{repository}/manifests/{gone}")).await;
        assert_eq!(deleted.status(), StatusCode::ACCEPTED);
    }
    let store = registry.directory.path().join("store");
    let mut killed = 0;
    for deletions in KILLED_AFTER {
        age(&store);
        // So slow that there is time to kill it.
        let mut command = gc(&registry, &["--take-over", "--gc-deletes-per-s", "5"]);
        let before = count(&store);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        killed += usize::from(kill_after(child, &store, before, deletions));
        pull(&registry, "team/kept", &kept, &[&shared, &own]).await;
    }
    assert!(killed >= 3, "only {killed} collections were killed");
    for _ in 0..5 {
        age(&store);
        report(&registry, &[]);
    }
    age(&store);
    let last = report(&registry, &[]);
    assert_eq!(last["total"]["freed_objects"], 0, "{last}");
    assert_eq!(last["total"]["waiting_objects"], 0, "{last}");
    // Two layers and a configuration.
    assert_eq!(files(&store.join("data")).len(), 3);
    let registry = registry.restart().await;
    pull(&registry, "team/kept", &kept, &[&shared, &own]).await;
    // What was collected can be pushed again.
    let layer = content(1000, 10);
    let again = registry.push_image("team/gone-0", "v2", &[&shared, &layer]).await;
    pull(&registry, "team/gone-0", &again, &[&shared, &layer]).await;
}

#[tokio::test]
async fn a_dry_run_changes_no_file() {
    let registry = TestRegistry::start().await;
    let gone = registry.push_image("app", "v1", &[&content(500, 1)]).await;
    registry.delete(&format!("/v2/app/manifests/{gone}")).await;
    let store = registry.directory.path().join("store");
    age(&store);
    report(&registry, &[]);
    age(&store);
    let listing = || {
        let mut all: Vec<_> = files(&store)
            .into_iter()
            .map(|path| (std::fs::metadata(&path).unwrap().modified().unwrap(), path))
            .collect();
        all.sort();
        all
    };
    let before = listing();
    let dry = report(&registry, &["--dry-run"]);
    assert_eq!(listing(), before);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(dry["kinds"]["membership"]["freed_objects"], 2, "{dry}");
    let wrong = gc(&registry, &["--grace", "10m"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
}
