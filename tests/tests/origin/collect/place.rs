//! A store, the programs over it, and how time passes for both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_tests::testkit::error::{Context as _, LabError};
use longshore_tests::testkit::{Backend, Clock, Origin, Result, Settings, Site};
use serde_json::Value;

use crate::harness::{Stage, on_clock};

/// Where collections are tested.
pub(super) struct Place<'a> {
    pub(super) stage: &'a Stage,
    pub(super) settings: Settings,
    /// Else time passes by the times of files.
    clock: Option<&'a Clock>,
}

/// Objects by key, with their sizes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bucket(BTreeMap<String, u64>);

/// Runs a test on a real server whose clock is set forward with everybody's.
pub(super) async fn on_servers(
    backend: Backend,
    settings: &Settings,
    test: impl AsyncFnOnce(&Place<'_>) -> Result<()>,
) {
    let settings = settings.clone();
    on_clock(backend, async |stage, clock| {
        test(&Place { stage, settings, clock: Some(clock) }).await
    })
    .await;
}

impl<'a> Place<'a> {
    /// A local directory: its times are the kernel's, so that files are made older instead.
    pub(super) fn of_files(stage: &'a Stage, settings: &Settings) -> Self {
        Self { stage, settings: settings.clone(), clock: None }
    }

    /// The same place with other settings.
    pub(super) const fn with(&self, settings: Settings) -> Self {
        Self { stage: self.stage, settings, clock: self.clock }
    }

    /// Whether records that say when they end go by the same clock: uploads expire.
    pub(super) const fn expires_uploads(&self) -> bool {
        self.clock.is_some()
    }

    /// A registry; `number` tells its log apart.
    pub(super) async fn serve(&self, number: usize) -> Result<Origin> {
        let Stage { loopback, store } = self.stage;
        let name = format!("registry-{number}");
        Origin::start_with(loopback, store, &name, &self.settings).await
    }

    /// A subcommand, to its end.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let Stage { loopback, store } = self.stage;
        Origin::ask(loopback, store, &self.settings, "", arguments).await
    }

    /// Time passes. No registry serves meanwhile.
    pub(super) async fn pass(&self, time: Duration) -> Result<()> {
        match (self.clock, self.stage.store.server()) {
            (Some(clock), Some(server)) => {
                clock.advance(time, &[server.endpoint().to_owned()]).await
            }
            _ => age(&self.directory(), time),
        }
    }

    fn directory(&self) -> PathBuf {
        self.stage.loopback.directory().join("store")
    }

    /// Everything that lies in the store.
    pub(super) async fn list(&self) -> Result<Bucket> {
        let site = Site::Loopback(self.stage.loopback.clone());
        if let Some(server) = self.stage.store.server() {
            return server.list(&site).await.map(Bucket);
        }
        let (root, mut found) = (self.directory(), BTreeMap::new());
        walk(&root, &mut |path, file| {
            let key = path.strip_prefix(&root).expect("it was found there");
            found.insert(key.display().to_string(), file.len());
            Ok(())
        })?;
        Ok(Bucket(found))
    }
}

impl Bucket {
    /// Whose keys begin so.
    pub(super) fn below(&self, prefix: &str) -> usize {
        self.0.keys().filter(|key| key.starts_with(prefix)).count()
    }

    /// Bytes of all objects.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().sum()
    }

    /// Objects that are not the collector's own.
    pub(super) fn contents(&self) -> u64 {
        let own = |key: &&String| key.starts_with("gc/") || key.contains("!/tomb/");
        self.0.keys().filter(|key| !own(key)).count() as u64
    }
}

type Visit<'a> = dyn FnMut(&Path, &fs::Metadata) -> Result<()> + 'a;

fn walk(directory: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let failed = |path: &Path| path.display().to_string();
    for entry in fs::read_dir(directory).during(|| failed(directory))? {
        let path = entry.during(|| failed(directory))?.path();
        let found = fs::metadata(&path).during(|| failed(&path))?;
        if found.is_dir() { walk(&path, visit)? } else { visit(&path, &found)? }
    }
    Ok(())
}

fn age(directory: &Path, time: Duration) -> Result<()> {
    walk(directory, &mut |path, found| {
        let modified = found.modified().map_err(|e| LabError::Unexpected(e.to_string()))?;
        let file = fs::File::options().write(true).open(path);
        let aged = file.and_then(|file| file.set_modified(modified - time));
        aged.during(|| path.display().to_string())
    })
}
