//! A long-lived program of the lab: its pid, its log, its end.
//!
//! A task of its own waits for each program, so that it is reaped and its end can be awaited by
//! any number of callers. Dropping a [`Process`] kills the program. Its standard output and error
//! go to one log file in the lab's directory.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::sync::watch;

use super::error::{Context, LabError, Result};
use super::name::start_time;
use super::wait::within;

/// Lines of a log that an error message carries.
const TAIL_LINES: usize = 25;
/// No log is read further back than this for its tail.
const TAIL_BYTES: u64 = 64 * 1024;

/// How to start a program.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name in messages.
    pub(crate) name: String,
    /// Program and arguments, namespace entry included.
    pub(crate) line: Vec<String>,
    /// Environment on top of the lab's own.
    pub(crate) envs: Vec<(String, String)>,
    /// Where its output goes; appended to.
    pub(crate) log: PathBuf,
    /// The lab's list of processes.
    pub(crate) ledger: PathBuf,
}

/// A program that was started.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    end: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts the program and notes it in the lab's ledger.
    pub(crate) fn start(spec: Spec) -> Result<Self> {
        let log = append_to(&spec.log)?;
        let errors = log.try_clone().during(|| spec.log.display().to_string())?;
        let (program, args) = spec
            .line
            .split_first()
            .ok_or_else(|| LabError::Unexpected(format!("{}: nothing to start", spec.name)))?;
        let mut child = Command::new(program)
            .args(args)
            .envs(spec.envs)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .during(|| format!("{}: {}", spec.name, spec.line.join(" ")))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| LabError::Unexpected(format!("{} has no pid", spec.name)))?;
        record(&spec.ledger, pid)?;
        let (ended, end) = watch::channel(None);
        tokio::spawn(async move {
            // The sweep may have taken the status first: then any status tells the same.
            let status = child.wait().await.unwrap_or_default();
            let _ = ended.send(Some(status));
        });
        Ok(Self { name: spec.name, pid, log: spec.log, end })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The file with its standard output and error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; none while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.end.borrow()
    }

    /// Sends a signal; a program that has ended gets none.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        match kill_process(self.pid, signal) {
            // It ended a moment ago, and its task does not know yet.
            Err(Errno::SRCH) => Ok(()),
            sent => sent.during(|| format!("signal to {}", self.name)),
        }
    }

    /// Waits for its end.
    pub async fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut end = self.end.clone();
        let what = format!("the end of {}", self.name);
        let status = within(&what, deadline, end.wait_for(Option::is_some)).await?;
        let status = status.map_err(|_| LabError::Unexpected(format!("{what} was lost")))?;
        status.ok_or_else(|| LabError::Unexpected(format!("{what} has no status")))
    }

    /// SIGTERM, and SIGKILL where that is not enough within `grace`.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match self.wait(grace).await {
            Ok(status) => Ok(status),
            Err(_) => self.kill().await,
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10)).await
    }

    /// An error when it is no longer running, with the end of its log.
    pub fn check_alive(&self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(LabError::Died {
                process: self.name.clone(),
                status: status.to_string(),
                tail: tail(&self.log),
            }),
        }
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
    }
}

fn record(ledger: &Path, pid: Pid) -> Result<()> {
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    let Some(started) = start_time(pid) else { return Ok(()) };
    let mut file = append_to(ledger)?;
    writeln!(file, "{pid} {started}").during(|| ledger.display().to_string())
}

fn append_to(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.during(|| path.display().to_string())
}

/// The last lines of a log; empty when there is none.
pub(crate) fn tail(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
