//! Short-lived commands of the lab: `ip`, `tc`, `apt-get`, `skopeo` and the like.
//!
//! Every command has a deadline (coreutils' `timeout` keeps it) and its own process group, so that
//! a Ctrl-C reaches the lab's clean-up and not its tools. Long-lived programs are `process`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::error::{LabError, Result};

/// Enough for everything that does not use the network.
const DEADLINE: Duration = Duration::from_secs(60);
/// How much of a command's standard error an error message keeps.
const STDERR_BYTES_KEPT: usize = 4096;

/// A command line that runs to its end.
#[derive(Debug, Clone)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    directory: Option<PathBuf>,
    deadline: Duration,
}

impl Run {
    /// `program` is looked up in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            stdin: None,
            directory: None,
            deadline: DEADLINE,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the command reads from its standard input; at most a pipe's buffer (64 KiB).
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs it in this directory.
    pub fn within(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Instead of the default of a minute.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it on the calling thread and returns its standard output.
    pub fn run(self) -> Result<Vec<u8>> {
        let finished = self.finish()?;
        if finished.success {
            return Ok(finished.stdout);
        }
        Err(LabError::Command {
            command: self.line(),
            outcome: finished.outcome,
            stderr: tail(&finished.stderr),
        })
    }

    /// As [`Run::run`], as text.
    pub fn run_text(self) -> Result<String> {
        self.run().map(|stdout| String::from_utf8_lossy(&stdout).into_owned())
    }

    /// As [`Run::run_text`], off the async runtime's threads.
    pub async fn run_async(self) -> Result<String> {
        let line = self.line();
        tokio::task::spawn_blocking(move || self.run_text())
            .await
            .map_err(|failed| LabError::Unexpected(format!("`{line}`: {failed}")))?
    }

    /// Runs it and returns whatever came out, success or not.
    pub fn finish(&self) -> Result<Finished> {
        let failed = |outcome: std::io::Error| LabError::Command {
            command: self.line(),
            outcome: outcome.to_string(),
            stderr: String::new(),
        };
        let mut command = Command::new("timeout");
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let mut child = command
            .arg("--kill-after=5")
            .arg(self.deadline.as_secs().max(1).to_string())
            .arg(&self.program)
            .args(&self.args)
            .envs(self.envs.iter().map(|(key, value)| (key, value)))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let (Some(bytes), Some(mut pipe)) = (&self.stdin, child.stdin.take()) {
            // A command that ends without reading is told by its status, not by EPIPE.
            let _ = std::io::Write::write_all(&mut pipe, bytes);
        }
        let output = child.wait_with_output().map_err(failed)?;
        Ok(Finished {
            success: output.status.success(),
            code: output.status.code(),
            outcome: match output.status.code() {
                Some(124) => format!("no end within {:?}", self.deadline),
                _ => output.status.to_string(),
            },
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }

    fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit status 0.
    pub success: bool,
    /// The exit status, none after a signal.
    pub code: Option<i32>,
    /// The same in words.
    pub outcome: String,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(STDERR_BYTES_KEPT);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}
