//! `longshore-registry check`: what it says, and its status.

use std::path::Path;
use std::process::Command;

fn check(directory: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
    command.env_clear().arg("check");
    command.args(["--serve-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    command.arg(format!("--storage-url=file://{}", directory.join("store").display()));
    let key = directory.join("keys/signing.pem");
    command.arg(format!("--identity-signing-key-file={}", key.display())).args(flags);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn state(json: &str, check: &str) -> String {
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    let row = rows.iter().find(|row| row["check"] == check).unwrap();
    row["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_configuration_that_serves_is_well_and_nothing_is_made_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (status, table, stderr) = check(directory.path(), &[]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{table}");
    assert!(table.contains("storage") && table.contains("can be written and read"), "{table}");
    assert!(!directory.path().join("keys").exists(), "it makes no key");

    let (_, json, _) = check(directory.path(), &["--json"]);
    for (name, expected) in [
        ("configuration", "ok"),
        ("signing key", "warn"),
        ("tls", "warn"),
        ("storage", "ok"),
        ("conditional writes", "ok"),
        ("telemetry", "ok"),
    ] {
        assert_eq!(state(&json, name), expected, "{name}");
    }
}

#[test]
fn what_would_not_serve_fails_by_name_and_status() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("store"), "a file in its place").unwrap();
    let certificate = "--tls-certificate-file=/nonexistent.pem";
    let (status, json, stderr) =
        check(directory.path(), &["--json", certificate, "--tls-key-file=/nonexistent.key"]);
    assert_eq!(status, Some(1), "{json}");
    assert_eq!(state(&json, "tls"), "fail");
    assert_eq!(state(&json, "storage"), "fail");
    assert!(stderr.starts_with("longshore-registry: 2 of "), "{stderr}");

    let (status, _, stderr) = check(directory.path(), &["--log-format=xml"]);
    assert_eq!(status, Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}
