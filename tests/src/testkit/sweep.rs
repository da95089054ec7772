//! Removes everything a lab made, knowing nothing but its name.
//!
//! One way out for all ends: a lab dropped, Ctrl-C, and a lab whose owner crashed, which the next
//! lab removes. It never touches anything whose name is not a lab's, and never a living lab of
//! another process. Order: processes, control groups, namespaces, mounts, files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::command::Run;
use super::name::{LabName, labs_directory, start_time};
use super::netns::NAMED;

/// File in a lab's directory: a line `pid start-time` for every program that was started.
pub(crate) const PROCESSES: &str = "processes";
/// Rounds of killing, since a dying supervisor may have just started one more.
const KILL_ROUNDS: u32 = 100;
const KILL_PAUSE: Duration = Duration::from_millis(20);

/// Removes the labs of dead owners; returns their names.
pub fn sweep_dead() -> Vec<LabName> {
    let dead: BTreeSet<LabName> = found().into_iter().filter(|lab| !lab.owner_lives()).collect();
    for lab in &dead {
        remove(lab);
    }
    dead.into_iter().collect()
}

/// Every lab that left a namespace or a directory on this machine.
pub(crate) fn found() -> BTreeSet<LabName> {
    let places = [Path::new(NAMED), labs_directory()];
    let entries = places.into_iter().filter_map(|place| fs::read_dir(place).ok()).flatten();
    entries.filter_map(|entry| LabName::parse(entry.ok()?.file_name().to_str()?)).collect()
}

/// Stops and removes one lab. Best effort by nature: what cannot be removed is said on the log
/// and found again by the next sweep.
pub(crate) fn remove(lab: &LabName) {
    let namespaces = namespaces_of(lab);
    kill_all(lab, &namespaces);
    remove_cgroups(&lab.to_string());
    for namespace in &namespaces {
        if let Err(failed) = Run::new("ip").args(["netns", "del", namespace]).run() {
            tracing::warn!(%failed, "a namespace stays");
        }
    }
    unmount_below(&lab.directory());
    if let Err(failed) = remove_tree(&lab.directory()) {
        tracing::warn!(%failed, lab = %lab, "files of a lab stay");
    }
}

fn namespaces_of(lab: &LabName) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMED) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| LabName::parse(name).as_ref() == Some(lab))
        .collect()
}

/// Kills what was recorded and what lives in the namespaces until nothing is left.
fn kill_all(lab: &LabName, namespaces: &[String]) {
    let mut killed = BTreeSet::new();
    for _ in 0..KILL_ROUNDS {
        let mut living = recorded(lab);
        living.extend(namespaces.iter().flat_map(|namespace| inside(namespace)));
        living.remove(&std::process::id());
        if living.is_empty() {
            break;
        }
        for pid in &living {
            signal(*pid, Signal::KILL);
        }
        killed.extend(living);
        std::thread::park_timeout(KILL_PAUSE);
    }
    // Shims and containers come to us, the subreaper, when their parents die.
    killed.iter().for_each(|pid| reap(*pid));
}

/// Kills every process of one namespace and waits until all are gone.
pub(crate) fn kill_inside(namespace: &str) {
    for _ in 0..KILL_ROUNDS {
        let living = inside(namespace);
        if living.is_empty() {
            return;
        }
        for pid in living {
            signal(pid, Signal::KILL);
            reap(pid);
        }
        std::thread::park_timeout(KILL_PAUSE);
    }
}

/// Programs that the lab started and that still run.
fn recorded(lab: &LabName) -> BTreeSet<u32> {
    let text = fs::read_to_string(lab.directory().join(PROCESSES)).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (pid, started) = line.split_once(' ')?;
            let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
            (start_time(pid) == Some(started)).then_some(pid)
        })
        .collect()
}

/// Processes whose network namespace this is: programs, shims and containers.
fn inside(namespace: &str) -> BTreeSet<u32> {
    let own = std::process::id();
    let pids = Run::new("ip").args(["netns", "pids", namespace]).run_text().unwrap_or_default();
    pids.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != own).collect()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already is what is wanted.
        let _ = kill_process(pid, signal);
    }
}

/// Takes an orphan's exit status so that no zombie stays; not a child of ours is no error.
fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Removes the lab's groups in every hierarchy, leaves first.
pub(crate) fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies =
        fs::read_dir(root).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for hierarchy in hierarchies.chain([root.to_path_buf()]) {
        remove_groups(&hierarchy.join(name));
    }
}

fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn unmount_below(directory: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<&str> =
        points.filter(|point| Path::new(point).starts_with(directory)).collect();
    points.sort_unstable();
    for point in points.into_iter().rev() {
        if let Err(failed) = Run::new("umount").args(["--lazy", point]).run() {
            tracing::warn!(%failed, "a mount stays");
        }
    }
}

/// Removes a tree in which a process that was just killed may have left a file.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..3 {
        outcome = match fs::remove_dir_all(directory) {
            Err(failed) if failed.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other,
        };
        if outcome.is_ok() {
            return Ok(());
        }
        std::thread::park_timeout(KILL_PAUSE);
    }
    outcome
}
