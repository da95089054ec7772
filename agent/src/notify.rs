//! Tells the service manager how the agent stands: READY, STATUS, STOPPING, WATCHDOG.
//!
//! Source: sd_notify(3), sd_watchdog_enabled(3). One datagram to the socket that NOTIFY_SOCKET
//! names; without it nothing is sent, and an error changes nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The manager's queue may be full for a moment; nobody waits longer for it than this.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
/// A keep-alive goes out this many times within the manager's patience.
const ALIVE_PER_TIMEOUT: u32 = 4;

/// The socket of the service manager, where there is one.
#[derive(Debug, Default)]
pub struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
    alive_period: Option<Duration>,
    last_alive: Mutex<Option<Instant>>,
}

impl Notify {
    /// From NOTIFY_SOCKET (a path, or `@name` in the abstract namespace), WATCHDOG_USEC and
    /// WATCHDOG_PID.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsStr::new(&name))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|_| for_us).map(Duration::from_micros);
        Ok(Self {
            manager: Some((socket, address)),
            alive_period: patience.map(|patience| patience / ALIVE_PER_TIMEOUT),
            last_alive: Mutex::default(),
        })
    }

    /// The agent serves.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=serving\n");
    }

    /// What the agent does now, for `systemctl status`.
    pub fn status(&self, words: &str) {
        self.send(&format!("STATUS={words}\n"));
    }

    /// The agent drains.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining\n");
    }

    /// The agent lives. May be called as often as one likes: it is told as often as the manager
    /// wants it, and never where it does not.
    pub fn alive(&self) {
        let Some(period) = self.alive_period else { return };
        let mut last = self.last_alive.lock().expect("nothing panics while it holds the time");
        if last.is_none_or(|last| last.elapsed() >= period) {
            *last = Some(Instant::now());
            self.send("WATCHDOG=1\n");
        }
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.manager
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notify(variables: &[(&str, &OsStr)]) -> Notify {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        Notify::from_environment(variable).unwrap()
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn sends_what_the_manual_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = notify(&[("NOTIFY_SOCKET", path.as_os_str())]);
        notify.ready();
        notify.alive();
        notify.stopping();
        assert!(heard(&manager).starts_with("READY=1\n"));
        // Nobody asked for keep-alives.
        assert!(heard(&manager).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn tells_that_it_lives_as_often_as_it_is_wanted_over_an_abstract_socket() {
        let name = format!("longshore-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let socket = OsString::from(format!("@{name}"));
        let patience = OsStr::new("3600000000");
        let notify = notify(&[("NOTIFY_SOCKET", &socket), ("WATCHDOG_USEC", patience)]);
        notify.alive();
        notify.alive();
        notify.status("done");
        assert_eq!(heard(&manager), "WATCHDOG=1\n");
        assert_eq!(heard(&manager), "STATUS=done\n");
    }

    #[test]
    fn keep_alives_wanted_of_another_process_are_not_ours() {
        let path = OsStr::new("/nonexistent");
        let usec = OsStr::new("1000");
        let other = notify(&[
            ("NOTIFY_SOCKET", path),
            ("WATCHDOG_USEC", usec),
            ("WATCHDOG_PID", OsStr::new("1")),
        ]);
        assert_eq!(other.alive_period, None);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        notify(&[]).stopping();
    }
}
