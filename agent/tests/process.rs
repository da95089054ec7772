//! The process `longshore-agent`, as a service manager sees it: readiness, signals, exit codes.

#![allow(clippy::unwrap_used, reason = "what a helper misses fails its test")]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use longshore_proto::sign::SigningKey;
use rustix::process::{Pid, Signal, kill_process};

/// No step of a start or an end takes longer, also on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A directory with a configuration that touches nothing outside it, and no origin.
struct Node {
    directory: tempfile::TempDir,
    manager: UnixDatagram,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().display();
        let (key, _) = SigningKey::generate();
        let text = format!(
            "origin.url = 'http://127.0.0.1:1'\n\
             origin.signing_keys = ['{}']\n\
             mirror.listen = '127.0.0.1:0'\n\
             swarm.listen = '127.0.0.1:0'\n\
             admin.listen = '127.0.0.1:0'\n\
             containerd.hosts_dir = '{home}/certs.d'\n\
             store.path = '{home}/store'\n\
             control.socket = '{home}/agent.sock'\n",
            key.public()
        );
        std::fs::write(directory.path().join("agent.toml"), text).unwrap();
        let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(SOON)).unwrap();
        Self { directory, manager }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-agent"));
        let config = self.path("agent.toml");
        command.args(arguments).arg("--config").arg(config).env_clear().stderr(Stdio::piped());
        command
    }

    /// Starts it as `Type=notify` does.
    fn start_ready(&self) -> Child {
        let child = self.command(&[]).env("NOTIFY_SOCKET", self.path("notify")).spawn().unwrap();
        self.await_message("READY=1");
        child
    }

    fn await_message(&self, wanted: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn hosts_file(&self) -> PathBuf {
        self.path("certs.d/127.0.0.1_1_/hosts.toml")
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, signal).unwrap();
}

fn is_gone(path: &Path) -> bool {
    !path.exists() && !path.parent().unwrap().exists()
}

#[test]
fn sigterm_takes_hosts_toml_along_and_ends_with_success() {
    let node = Node::new();
    let mut agent = node.start_ready();
    assert!(node.hosts_file().exists());
    signal(&agent, Signal::TERM);
    node.await_message("STOPPING=1");
    assert!(agent.wait().unwrap().success());
    assert!(is_gone(&node.hosts_file()));
    assert!(!node.path("agent.sock").exists());
}

#[test]
fn after_sigkill_the_unit_takes_hosts_toml_away_and_a_new_agent_starts() {
    let node = Node::new();
    let mut agent = node.start_ready();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(node.hosts_file().exists());
    assert!(node.run(&["remove-hosts"]).status.success());
    assert!(is_gone(&node.hosts_file()));

    let mut next = node.start_ready();
    assert!(node.hosts_file().exists());
    signal(&next, Signal::INT);
    assert!(next.wait().unwrap().success());
}

#[test]
fn a_wrong_command_line_or_configuration_is_one_line_and_exit_64() {
    let node = Node::new();
    for (arguments, word) in [
        (["--mirror-listen", "nowhere"], "mirror.listen"),
        (["--mirror-lisen", "127.0.0.1:0"], "--mirror-lisen"),
        (["--watchdog-timeout-ms", "soon"], "watchdog.timeout_ms"),
    ] {
        let output = node.run(&arguments);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{line}");
        assert!(line.contains(word) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn hosts_toml_goes_although_the_configuration_is_broken_by_then() {
    let node = Node::new();
    let mut agent = node.start_ready();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let hosts_dir = node.path("certs.d");
    let text =
        format!("[mirror]\nlisten = 7\n[containerd]\nhosts_dir = '{}'\n", hosts_dir.display());
    std::fs::write(node.path("agent.toml"), text).unwrap();
    assert!(node.run(&["remove-hosts"]).status.success());
    assert!(is_gone(&node.hosts_file()));
}

/// With the hook that only test builds have; the end-to-end tests do the same in mid-pull.
#[cfg(feature = "test-hooks")]
#[test]
fn a_wedged_runtime_is_aborted_within_three_seconds() {
    use std::os::unix::process::ExitStatusExt as _;

    let node = Node::new();
    let mut agent = node.start_ready();
    let wedged = std::time::Instant::now();
    signal(&agent, Signal::USR2);
    let status = agent.wait().unwrap();
    assert!(wedged.elapsed() < Duration::from_secs(3), "{:?}", wedged.elapsed());
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    let mut said = String::new();
    std::io::Read::read_to_string(agent.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert!(said.contains("watchdog: runtime silent"), "{said}");
}
