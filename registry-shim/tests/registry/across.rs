//! Commands over the stores of all regions, by the program itself, beside one that serves them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use longshore_registry::config::Config;
use reqwest::StatusCode;
use tempfile::TempDir;

use crate::common::{TestRegistry, content, image_manifest, sha256, until};

/// Longer than every grace.
const LONG: Duration = Duration::from_secs(200 * 3600);

/// A configuration of two regions in directories, and its file.
struct Regions {
    directory: TempDir,
    file: PathBuf,
}

impl Regions {
    /// `us` patterns beside the default `eu`, and what else the file says.
    fn new(us: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = |name: &str| format!("file://{}", directory.path().join(name).display());
        let key = directory.path().join("keys/signing.pem");
        let text = format!(
            "{more}\n[identity]\nsigning_key_file = \"{}\"\n\
             [serve]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[regions.region]]\nname = \"eu\"\ndefault = true\nstorage.url = \"{}\"\n\
             [[regions.region]]\nname = \"us\"\nrepositories = {us}\nstorage.url = \"{}\"\n",
            key.display(),
            url("eu"),
            url("us"),
        );
        let file = directory.path().join("registry.toml");
        std::fs::write(&file, text).unwrap();
        Self { directory, file }
    }

    async fn serve(&self) -> TestRegistry {
        let text = std::fs::read_to_string(&self.file).unwrap();
        let read: Config = toml::from_str(&text).unwrap();
        TestRegistry::start_with(|config| *config = read).await
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
        command.env_clear().args(arguments).arg("--config").arg(&self.file);
        command.output().unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.directory.path().join(below), &mut found);
        found
    }

    /// Time goes by for what the collector looks at, in both stores.
    fn age(&self) {
        for store in ["eu", "us"] {
            for below in ["repo", "cat", "blob", "bref", "states", "data", "proj", "gc/tomb"] {
                self.files(&format!("{store}/{below}")).iter().for_each(|path| age(path));
            }
        }
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn age(path: &Path) {
    // A registry is at work here, and may be done with the file by now.
    let Ok(file) = std::fs::File::options().write(true).open(path) else { return };
    file.set_modified(file.metadata().unwrap().modified().unwrap() - LONG).unwrap();
}

#[tokio::test]
async fn one_gc_collects_the_stores_of_all_regions_and_their_replicas() {
    let regions = Regions::new("[\"us/*\"]", "");
    let registry = regions.serve().await;
    let layer = content(1000, 1);
    for repository in ["team/kept", "us/kept"] {
        registry.push_image(repository, "v1", &[&layer]).await;
    }
    for repository in ["team/gone", "us/gone"] {
        let own = content(2000, repository.len());
        let gone = registry.push_image(repository, "v1", &[&layer, &own]).await;
        let deleted = registry.delete(&format!("/v2/{repository}/manifests/{gone}")).await;
        assert_eq!(deleted.status(), StatusCode::ACCEPTED);
    }
    // Two layers and a configuration in each home, and as many in its replica.
    let segments = |below: &str| regions.files(below).len();
    let places = ["eu/data", "us/data", "us/replica/eu/data", "eu/replica/us/data"];
    until("the replicas are whole", async || places.iter().all(|at| segments(at) == 3)).await;

    regions.age();
    let dry = regions.ask(&["gc", "--dry-run", "--json"]);
    assert_eq!(dry["dry_run"], true);
    assert!(dry["kinds"]["membership"]["waiting_objects"].as_u64() > Some(0), "{dry}");
    let mut freed = 0;
    for _ in 0..6 {
        regions.age();
        let report = regions.ask(&["gc", "--json", "--take-over"]);
        freed += report["kinds"]["segment"]["freed_bytes"].as_u64().unwrap_or_default();
    }
    assert_eq!(freed, 4000, "a layer of each home");
    assert_eq!((segments("eu/data"), segments("us/data")), (2, 2));
    until("the replicas follow", async || places.iter().all(|at| segments(at) == 2)).await;
    for repository in ["team/kept", "us/kept"] {
        let blob = registry.get(&format!("/v2/{repository}/blobs/{}", sha256(&layer))).await;
        assert_eq!(blob.bytes().await.unwrap(), layer);
    }
    registry.stop().await;
}

#[tokio::test]
async fn usage_is_that_of_all_regions_together() {
    let regions = Regions::new("[\"us*\"]", "[quota]\ndefault_bytes = 100000\n");
    let registry = regions.serve().await;
    let layer = content(3000, 1);
    for repository in ["team/app", "us/app"] {
        registry.push_image(repository, "v1", &[&layer]).await;
    }
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    let each = (3000 + config.len() + image_manifest(config, &[&layer]).len()) as u64;
    let list = regions.ask(&["quota", "list", "--json"]);
    let found: Vec<(&str, u64)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|usage| (usage["project"].as_str().unwrap(), usage["used_bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, [("team", each), ("us", each)]);
    let shown = regions.ask(&["quota", "show", "us", "--json"]);
    assert_eq!((&shown["used_bytes"], &shown["charges"]), (&each.into(), &3.into()));
    let recomputed = regions.ask(&["quota", "recompute", "us", "--json"]);
    assert_eq!((&recomputed["used_bytes"], &recomputed["added"]), (&each.into(), &0.into()));
    registry.stop().await;
}

#[test]
fn a_project_with_a_quota_in_two_regions_is_refused_in_one_line() {
    let regions = Regions::new("[\"team/*\"]", "[quota]\nprojects = [\"team=1GiB\"]\n");
    for command in [&["serve"][..], &["gc"], &["quota", "list"]] {
        let ended = regions.run(command);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(64), "{said}");
        assert_eq!(
            said,
            "longshore-registry: config: regions.region: project team has a quota, and repositories in \
             eu and us: name team and team/* in one region\n"
        );
    }
}
