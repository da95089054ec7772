//! What the kernel knows of a process: CPU time and memory.

use std::fs;
use std::time::Duration;

use crate::testkit::error::{Context, LabError, Result};

/// User and system time of a process, all threads, since its start.
///
/// Source: proc(5), `/proc/pid/stat`, fields 14 and 15.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).during(|| path.clone())?;
    let unexpected = || LabError::Unexpected(format!("{path}: {text}"));
    // The name may hold spaces and parentheses: fields are counted from behind it.
    let (_, rest) = text.rsplit_once(')').ok_or_else(unexpected)?;
    let ticks = |field: usize| rest.split_whitespace().nth(field)?.parse::<u64>().ok();
    let (user, system) = (ticks(11).ok_or_else(unexpected)?, ticks(12).ok_or_else(unexpected)?);
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
}

/// Resident memory in bytes.
///
/// Source: proc(5), `VmRSS` of `/proc/pid/status`.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).during(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    let kibibytes: u64 =
        kibibytes.ok_or_else(|| LabError::Unexpected(format!("{path}: {text}")))?;
    Ok(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_time(pid).unwrap() < Duration::from_secs(3600));
        assert!(resident_bytes(pid).unwrap() > 1024 * 1024);
    }
}
