//! The name of a lab, which is all that is needed to find and remove everything it made.
//!
//! A name carries its owner's pid and that process's start time, so that any later lab can tell a
//! living owner from a dead one, also after pids were used again. Namespaces are called
//! `<lab>-<role>`, the lab's directory `<lab>`, its cgroups `<lab>`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// First part of every name the testkit leaves in the system.
const PREFIX: &str = "lsl";
/// Where labs keep their state: a real disk, since containerd's roots are large.
const LABS: &str = "/var/tmp/longshore-lab";

static SEQUENCE: AtomicU32 = AtomicU32::new(0);

/// Identifies one lab on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabName {
    pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    started: u64,
    sequence: u32,
}

impl LabName {
    /// The next lab of this process.
    pub fn next() -> Self {
        let pid = std::process::id();
        let started = start_time(pid).expect("a process reads its own /proc/<pid>/stat");
        Self { pid, started, sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed) }
    }

    /// Reads the lab's part of `text`, which may go on with `-<role>`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        if parts.next()? != PREFIX {
            return None;
        }
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        let sequence = parts.next()?.parse().ok()?;
        Some(Self { pid, started, sequence })
    }

    /// Whether the process that made the lab still runs.
    pub fn owner_lives(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Name of the lab's namespace with this role.
    pub fn namespace(&self, role: &str) -> String {
        format!("{self}-{role}")
    }

    /// Where the lab keeps its files.
    pub fn directory(&self) -> PathBuf {
        labs_directory().join(self.to_string())
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}-{}", self.pid, self.started, self.sequence)
    }
}

/// The directory of all labs' directories.
pub(crate) fn labs_directory() -> &'static Path {
    Path::new(LABS)
}

/// When a process was started, in clock ticks since boot; none when it is gone or a zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, field 2, may hold blanks and parentheses: count from its end.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_printing_and_a_role() {
        let name = LabName::next();
        assert_eq!(LabName::parse(&name.to_string()), Some(name.clone()));
        assert_eq!(LabName::parse(&name.namespace("node1")), Some(name));
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for other in ["", "lsl", "lsl-1", "cni-1-2-3", "lsl-x-2-3", "lsl-1-2-", "docker"] {
            assert_eq!(LabName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_lives_and_one_with_another_start_time_does_not() {
        let name = LabName::next();
        assert!(name.owner_lives());
        let reused = LabName { started: name.started + 1, ..name };
        assert!(!reused.owner_lives());
    }
}
