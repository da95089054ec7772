//! The program: its statuses, its lines on stderr, its signals.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use longshore_proto::sign::PublicKey;
use tokio::time::timeout;

use crate::common::PATIENCE;

fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
    command.env_clear();
    let store = format!("file://{}", directory.join("store").display());
    for (name, value) in [
        ("LONGSHORE_SERVE_LISTEN", "127.0.0.1:0"),
        ("LONGSHORE_ADMIN_LISTEN", "127.0.0.1:0"),
        ("LONGSHORE_STORAGE_URL", &store),
        (
            "LONGSHORE_IDENTITY_SIGNING_KEY_FILE",
            directory.join("keys/signing.pem").to_str().unwrap(),
        ),
    ] {
        command.env(name, value);
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Where the registry says that it serves, in its first words and those about the store.
fn admin_address(log: &mut impl BufRead) -> String {
    let said: serde_json::Value = log
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .find(|said: &serde_json::Value| !said["fields"]["admin"].is_null())
        .expect("it says where it serves");
    said["fields"]["admin"].as_str().expect("the line names the admin port").to_owned()
}

/// Ends the child with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_wrong_setting_is_one_line_with_its_key_and_status_64() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.toml");
    std::fs::write(&file, "[serve]\nlistn = \"127.0.0.1:0\"\n").unwrap();
    let file = file.to_str().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "# nobody\n").unwrap();
    let tokens = format!("--join-token-file={}", tokens.display());
    for (arguments, key) in [
        (vec!["keys", "show"], "identity.signing_key_file"),
        (vec!["serve", "--config", file], "serve.listn"),
        (vec!["serve", "--config", "/nonexistent.toml"], "cannot read /nonexistent.toml"),
        (vec!["serve", "--storage-url", "ftp://bucket"], "storage.url"),
        (vec!["--storage-url", "ftp://bucket"], "storage.url"),
        (vec!["serve", "--tracker-announce-period-ms", "0"], "tracker.announce_period_ms"),
        (vec!["serve", "--serve-listn", "127.0.0.1:0"], "--serve-listn"),
        (vec!["serve", &tokens], "join.token_file"),
        (vec!["serve", "--identity-signing-key-file", "/dev/null"], "identity.signing_key_file"),
    ] {
        let (status, stdout, stderr) = run(program(directory.path()).args(&arguments));
        assert_eq!(status, Some(64), "{arguments:?}: {stderr}");
        let line = stderr.strip_prefix("longshore-registry: config: ").unwrap_or_default();
        assert!(line.contains(key), "{arguments:?}: {stderr}");
        assert_eq!((stderr.lines().count(), stdout.as_str()), (1, ""), "{stderr}");
    }
}

#[test]
fn a_port_that_is_taken_is_one_line_and_status_69() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, key) in [("--serve-listen", "serve.listen"), ("--admin-listen", "admin.listen")] {
        let mut command = program(directory.path());
        let (status, _, stderr) = run(command.args([flag, &address, "--log-filter", "off"]));
        let line = format!("{key}: cannot listen on {address}: another process has the port\n");
        assert_eq!(stderr, format!("longshore-registry: {line}"));
        assert_eq!(status, Some(69));
    }
}

#[test]
fn a_store_that_can_not_be_used_is_one_line_and_status_1() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = program(directory.path());
    command.args(["--log-filter", "off", "--storage-url"]);
    let (status, _, stderr) = run(command.arg(format!("file://{}/below", file.display())));
    assert!(stderr.starts_with("longshore-registry: storage.url: "), "{stderr}");
    assert_eq!((status, stderr.lines().count()), (Some(1), 1));
}

#[tokio::test]
async fn it_serves_shows_its_key_and_ends_with_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path());
    command.args(["serve", "--log-format", "json"]);
    let mut child = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    let admin = admin_address(&mut log);
    // TLS is not used here, yet the client wants to know by whom.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{admin}/readyz");
    let ready = timeout(PATIENCE, http.get(&url).send()).await.unwrap().unwrap();
    assert!(ready.status().is_success());

    let (status, stdout, stderr) = run(program(directory.path()).args(["keys", "show"]));
    assert_eq!((status, stderr.as_str(), stdout.lines().count()), (Some(0), "", 1));
    assert!(stdout.trim().parse::<PublicKey>().is_ok(), "{stdout}");

    let id = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let status = child.0.wait().unwrap();
        (status, std::io::read_to_string(log).unwrap())
    });
    let (status, log) = timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(status.success(), "{log}");
    for line in log.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn keys_are_made_once_shown_and_never_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let keys = |arguments: &[&str]| run(program(directory.path()).arg("keys").args(arguments));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;

    // Where the configuration says, and beside it.
    let (status, first, stderr) = keys(&["new"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert!(first.trim().parse::<PublicKey>().is_ok(), "{first}");
    assert_eq!(mode(&at("keys/signing.pem")), 0o600);
    let (file, next) = (at("next.pem"), format!("--file={}", at("next.pem").display()));
    let (status, second, _) = keys(&["new", &next]);
    assert_eq!((status, mode(&file)), (Some(0), 0o600));
    assert_ne!(first, second);
    let before = std::fs::read(&file).unwrap();
    let (status, stdout, stderr) = keys(&["new", &next]);
    assert_eq!((status, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr, format!("longshore-registry: {} is there already\n", file.display()));
    assert_eq!(std::fs::read(&file).unwrap(), before);

    assert_eq!(keys(&["show"]).1, first);
    let accepted = format!("--identity-accepted-key-files={}", file.display());
    assert_eq!(keys(&["show", &accepted]).1, format!("{first}{second}"), "who signs is first");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    let (status, _, stderr) = keys(&["show", &accepted]);
    assert_eq!(status, Some(64));
    assert!(stderr.contains("config: identity.accepted_key_files: ") && stderr.contains("640"));

    let token = format!("--file={}", at("token").display());
    let (status, kid, _) = keys(&["new", "--token", &token]);
    assert_eq!((status, mode(&at("token"))), (Some(0), 0o600));
    assert!(!kid.contains(std::fs::read_to_string(at("token")).unwrap().trim()));
    assert_eq!(keys(&["new", "--token", &token]).0, Some(1));
    assert_eq!(keys(&["new", "--token"]).0, Some(64), "no file is named");
    let named = format!("--auth-token-keys={}", at("token").display());
    let shown = keys(&["show", "--token", &named]).1;
    assert_eq!(shown, format!("{} {}\n", kid.trim(), at("token").display()));
}

#[test]
fn users_are_kept_by_the_command_line_and_no_password_is_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    let users = |arguments: &[&str], input: &str| {
        let mut command = program(directory.path());
        command.arg("users").args(arguments).arg("--file").arg(&file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that wants no password may have ended.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(users(&["add", "alice"], "one\n"), (Some(0), String::new()));
    assert_eq!(users(&["add", "bob"], "two"), (Some(0), String::new()));
    assert_eq!(users(&["verify", "alice"], "one\n").0, Some(0));
    assert_eq!(users(&["verify", "alice"], "two\n").0, Some(1));
    assert_eq!(users(&["list", "--json"], "").1, "{\"users\":[\"alice\",\"bob\"]}\n");
    assert_eq!(users(&["remove", "alice"], "").0, Some(0));
    assert_eq!(users(&["remove", "alice"], "").0, Some(1));
    assert!(users(&["list"], "").1.contains("bob"));
    assert_eq!(users(&["add", "carol"], "\n").0, Some(1));
    let (status, _, said) = run(program(directory.path()).args(["users", "list"]));
    assert_eq!(status, Some(64));
    assert!(said.contains("config: auth.users_file: "), "{said}");
}
