//! Why the lab could not do something, told so that a person can mend it.
//!
//! Owns the one error type of the testkit. Messages are single facts; where a process was involved
//! they carry the end of its log, because a test's reader has nothing else.

use std::io;
use std::time::Duration;

/// What the testkit's functions return.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// A failure of the lab itself or of a program running in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Run again as root.
    #[error("the lab needs root: it makes network namespaces, shaped links and mounts")]
    NotRoot,
    /// Run `make deps` or `make build`.
    #[error("{program} is missing: run `make {target}`")]
    MissingProgram {
        /// What was looked for.
        program: String,
        /// The make target that provides it.
        target: &'static str,
    },
    /// A short-lived command failed; its standard error says why.
    #[error("`{command}` failed ({outcome}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status or the reason that it could not be started.
        outcome: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// Something did not come true in time.
    #[error("{what}: not within {deadline:?}{detail}")]
    Deadline {
        /// The condition waited for.
        what: String,
        /// How long it was waited for.
        deadline: Duration,
        /// The last observation or the end of a log, on lines of its own; may be empty.
        detail: String,
    },
    /// A long-lived process ended although it should run.
    #[error("{process} ended: {status}\n{tail}")]
    Died {
        /// Its name in the lab.
        process: String,
        /// Exit status.
        status: String,
        /// The end of its log.
        tail: String,
    },
    /// containerd refused a CRI call.
    #[error("{call}: {status}")]
    Cri {
        /// The CRI method and its subject.
        call: String,
        /// What containerd answered.
        status: Box<tonic::Status>,
    },
    /// An HTTP exchange failed before a status arrived.
    #[error("{what}: {source}")]
    Http {
        /// Method and URL.
        what: String,
        /// The client's reason.
        source: reqwest::Error,
    },
    /// A file, socket or mount could not be used.
    #[error("{what}: {source}")]
    Io {
        /// The path or the operation.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program of a certain version is not to be had here; the caller prints one line.
    #[error("{what} is not available: {why}")]
    Unavailable {
        /// The program and the version asked for.
        what: String,
        /// Why.
        why: String,
    },
    /// Something answered, but not what was expected.
    #[error("{0}")]
    Unexpected(String),
}

/// Adds the subject to an I/O error.
pub trait Context<T> {
    /// Names the path or the operation that failed.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what(), source })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| LabError::Io { what: what(), source: errno.into() })
    }
}
