//! The audit log: every write, every refused write and every token that was given out.
//!
//! An entry is one tracing event under [`TARGET`]; with a file it is a JSON line there, too. The
//! file's queue is bounded: whoever wrote waits for a place a while, and an entry that finds none is
//! counted and stands in the log alone. The file is opened again on SIGHUP, for rotation. Entries
//! hold names, never credentials. The writer ends with its token, when everything in the queue is
//! written.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Of the events.
pub const TARGET: &str = "longshore_registry::audit";
/// Entries that wait for the disk.
const QUEUE_MAX: usize = 4096;
/// Entries that are written at once.
const BATCH_MAX: usize = 256;
/// How long an entry waits for a place in the queue.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

/// What somebody did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Entry<'a> {
    /// `user:alice`, `node:…`, `anonymous`; `unknown` where a credential was no good.
    pub actor: &'a str,
    /// `push_manifest`, `move_tag`, `push_blob`, `mount`, `delete_…`, `cancel_upload`, `issue_token`
    pub action: &'a str,
    /// Where.
    pub repository: &'a str,
    /// A tag, an upload or a token's id.
    pub reference: &'a str,
    /// Of what was written.
    pub digest: &'a str,
    /// `ok`, `refused` by the gate, `failed` otherwise.
    pub outcome: &'a str,
    /// The answer's.
    pub status: u16,
    /// From where.
    pub client: IpAddr,
    /// As the client was told it.
    pub request_id: &'a str,
}

/// Takes entries.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    file: Option<mpsc::Sender<Vec<u8>>>,
    lost: Counter,
}

/// Writes the queue into the file.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    queue: mpsc::Receiver<Vec<u8>>,
    reload: watch::Receiver<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
}

impl Audit {
    /// To `path` as well, if there is one; the second half has to be run.
    pub fn open(
        path: Option<&Path>,
        lost: Counter,
        reload: watch::Receiver<u64>,
    ) -> std::io::Result<(Self, Option<AuditFile>)> {
        let Some(path) = path else { return Ok((Self { file: None, lost }, None)) };
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let writer = AuditFile { path: path.to_owned(), file: open(path)?, queue, reload };
        Ok((Self { file: Some(sender), lost }, Some(writer)))
    }

    /// Notes what was done.
    pub async fn record(&self, entry: &Entry<'_>) {
        tracing::info!(
            target: TARGET,
            actor = entry.actor,
            action = entry.action,
            repository = entry.repository,
            reference = entry.reference,
            digest = entry.digest,
            outcome = entry.outcome,
            status = entry.status,
            client = %entry.client,
            request_id = entry.request_id,
            "audit"
        );
        let Some(file) = &self.file else { return };
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut line = serde_json::to_vec(&Line { time, entry }).expect("texts are JSON");
        line.push(b'\n');
        if file.send_timeout(line, PLACE_TIMEOUT).await.is_err() {
            self.lost.inc();
        }
    }
}

impl AuditFile {
    /// Writes until `ended`, and then what is left.
    pub async fn run(mut self, ended: CancellationToken) {
        let mut lines = Vec::new();
        loop {
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut lines, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self = self.write(std::mem::take(&mut lines)).await;
                }
                Ok(()) = self.reload.changed() => self.reopen(),
                () = ended.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
        }
    }

    /// On a thread that may block: the disk may be slow.
    async fn write(mut self, lines: Vec<Vec<u8>>) -> Self {
        let written = tokio::task::spawn_blocking(move || {
            let written = self.file.write_all(&lines.concat());
            (self, written)
        });
        match written.await {
            Ok((writer, Ok(()))) => writer,
            Ok((writer, Err(error))) => {
                let path = writer.path.display();
                tracing::error!(%path, %error, "audit file cannot be written");
                writer
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "audit file cannot be opened");
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::Reload;

    fn entry(actor: &str) -> Entry<'_> {
        Entry {
            actor,
            action: "push_blob",
            repository: "a",
            reference: "",
            digest: "",
            outcome: "ok",
            status: 201,
            client: [10, 0, 0, 1].into(),
            request_id: "id",
        }
    }

    #[tokio::test]
    async fn writes_all_to_its_end_and_opens_anew_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let (reload, ended) = (Reload::new(), CancellationToken::new());
        let (audit, writer) =
            Audit::open(Some(&path), Counter::default(), reload.subscribe()).unwrap();
        let running = tokio::spawn(writer.unwrap().run(ended.clone()));
        audit.record(&entry("user:alice")).await;
        while std::fs::read_to_string(&path).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let rotated = directory.path().join("audit.1");
        std::fs::rename(&path, &rotated).unwrap();
        reload.now();
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        for _ in 0..1000 {
            audit.record(&entry("a \"quoted\"\nname")).await;
        }
        ended.cancel();
        running.await.unwrap();
        let before = std::fs::read_to_string(&rotated).unwrap();
        let line: serde_json::Value = serde_json::from_str(before.trim_end()).unwrap();
        assert_eq!((&line["actor"], &line["status"]), (&"user:alice".into(), &201.into()));
        let after = std::fs::read_to_string(&path).unwrap();
        assert_eq!(after.lines().count(), 1000);
        assert!(after.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_finds_no_place_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let lost = Counter::default();
        let reload = Reload::new();
        let (audit, writer) = Audit::open(Some(&path), lost.clone(), reload.subscribe()).unwrap();
        for _ in 0..QUEUE_MAX + 2 {
            audit.record(&entry("a")).await;
        }
        assert_eq!(lost.get(), 2);
        drop(writer);
    }
}
