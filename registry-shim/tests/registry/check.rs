//! `longshore-registry check`: what it says, and its status.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_registry::auth::{self, users};
use longshore_registry::keys;

use crate::common::TestRegistry;

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

/// RFC 8037, appendix A.2.
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"one",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// A configuration in which everything is configured and well, one text for each thing.
struct Everything {
    directory: tempfile::TempDir,
    auth: String,
    rule: String,
    jwks: String,
    upstream: String,
    more: String,
}

impl Everything {
    /// In front of `upstream`, which lets alice in.
    fn new(upstream: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        users::put(&at("users"), "alice", "a-password").unwrap();
        std::fs::write(at("password"), "a-password\n").unwrap();
        std::fs::set_permissions(at("password"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(at("jwks"), JWKS).unwrap();
        std::fs::write(at("joins"), "0123456789abcdef\n").unwrap();
        auth::make_token_key(&at("token")).unwrap();
        keys::make(&at("keys/signing.pem")).unwrap();
        keys::make(&at("next.pem")).unwrap();
        let path = |name: &str| at(name).display().to_string();
        Self {
            auth: format!(
                "users_file = \"{}\"\ntoken_keys = [\"{}\"]\naudit_file = \"{}\"\n",
                path("users"),
                path("token"),
                path("audit")
            ),
            rule: "subjects = [\"group:a\"]\nrepositories = [\"a/*\"]\nactions = [\"pull\"]\n"
                .to_owned(),
            jwks: format!("jwks_file = \"{}\"\n", path("jwks")),
            upstream: format!("url = \"{upstream}\"\npassword_file = \"{}\"\n", path("password")),
            more: format!("[identity]\naccepted_key_files = [\"{}\"]\n", path("next.pem")),
            directory,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self, name: &str) -> PathBuf {
        self.at(&format!("store-{name}"))
    }

    fn check(&self, flags: &[&str]) -> (Option<i32>, String, String) {
        let region = |name: &str, default: bool| {
            let url = format!("file://{}", self.store(name).display());
            format!(
                "[[regions.region]]\nname = \"{name}\"\ndefault = {default}\n\
                 storage.url = \"{url}\"\n"
            )
        };
        let text = format!(
            "{}[join]\ntoken_file = \"{}\"\n[auth]\n{}[[auth.rule]]\n{}\
             [[auth.issuer]]\nname = \"ci\"\nissuer = \"https://ci.example\"\n\
             audience = [\"here\"]\nalgorithms = [\"EdDSA\"]\n{}\
             [[upstream.registry]]\nprefix = \"hub\"\nusername = \"alice\"\n{}{}{}",
            self.more,
            self.at("joins").display(),
            self.auth,
            self.rule,
            self.jwks,
            self.upstream,
            region("eu", true),
            region("us", false)
        );
        let file = self.at("registry.toml");
        std::fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        check(self.directory.path(), &[&["--json", &config], flags].concat())
    }

    /// Lines that fail, with the status; what they say holds no secret.
    async fn failing(self, flags: &'static [&'static str]) -> Vec<String> {
        let checked = tokio::task::spawn_blocking(move || self.check(flags)).await.unwrap();
        let (status, json, stderr) = checked;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&json).expect(&stderr);
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
        let failing = rows.iter().filter(|row| row["state"] == "fail");
        let failing: Vec<String> = failing.map(|row| text(row, "check")).collect();
        assert_eq!(status, Some(i32::from(!failing.is_empty())), "{json}");
        assert!(!json.contains("a-password"), "{json}");
        failing
    }
}

/// What an upstream is that lets alice in, with tokens.
async fn upstream() -> TestRegistry {
    let directory = tempfile::tempdir().unwrap();
    let users_file = directory.path().join("users");
    users::put(&users_file, "alice", "a-password").unwrap();
    // Read at the start.
    TestRegistry::start_with(|config| config.auth.users_file = Some(users_file)).await
}

#[tokio::test]
async fn everything_that_is_configured_has_a_line() {
    let upstream = upstream().await;
    let everything = Everything::new(&upstream.url(""));
    let checked = tokio::task::spawn_blocking(move || {
        let checked = everything.check(&[]);
        assert!(!everything.at("audit").exists(), "it makes no file");
        assert!(!everything.at("store").exists(), "storage.url means nothing beside regions");
        checked
    });
    let (status, json, stderr) = checked.await.unwrap();
    assert_eq!(status, Some(0), "{json}{stderr}");
    for name in [
        "signing key",
        "accepted keys",
        "users",
        "rules and issuers",
        "token keys",
        "audit file",
        "join tokens",
        "storage eu",
        "conditional writes eu",
        "storage us",
        "conditional writes us",
        "upstream hub",
        "issuer ci",
    ] {
        assert_eq!(state(&json, name), "ok", "{name}: {json}");
    }
}

#[tokio::test]
async fn what_is_wrong_fails_its_own_line_and_no_other() {
    let upstream = upstream().await;
    let everything = || Everything::new(&upstream.url(""));
    let closed = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let no_flags: &'static [&'static str] = &[];

    let wrong = everything();
    std::fs::write(wrong.at("users"), "alice:secret\n").unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["users"]);
    let wrong = everything();
    std::fs::set_permissions(wrong.at("token"), PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["token keys"]);
    let mut wrong = everything();
    wrong.rule = wrong.rule.replace("group:a", "somebody");
    assert_eq!(wrong.failing(no_flags).await, ["rules and issuers"]);
    let wrong = everything();
    std::fs::write(wrong.at("next.pem"), "no key").unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["accepted keys"]);
    let mut wrong = everything();
    wrong.auth = wrong.auth.replace("/audit\"", "/none/audit\"");
    assert_eq!(wrong.failing(no_flags).await, ["audit file"]);
    let authorities = &["--tls-client-ca-file=/nonexistent.pem"];
    assert_eq!(everything().failing(authorities).await, ["tls"]);

    let wrong = everything();
    std::fs::write(wrong.at("jwks"), "{}").unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["rules and issuers", "issuer ci"]);
    let mut wrong = everything();
    wrong.jwks = format!("jwks_url = \"http://{}/jwks\"\n", closed());
    assert_eq!(wrong.failing(no_flags).await, ["issuer ci"]);

    let mut wrong = everything();
    wrong.upstream = format!("url = \"http://{}\"\n", closed());
    wrong.upstream.push_str("password_env = \"NOBODY\"\n");
    assert_eq!(wrong.failing(no_flags).await, ["upstream hub"]);
    let wrong = everything();
    std::fs::write(wrong.at("password"), "another\n").unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["upstream hub"], "credentials that are refused");
    let mut wrong = everything();
    wrong.upstream.push_str("realms = [\"tokens.example\"]\n");
    assert_eq!(wrong.failing(no_flags).await, ["upstream hub"], "a token server not allowed");
    let wrong = everything();
    std::fs::write(wrong.store("us"), "a file in its place").unwrap();
    assert_eq!(wrong.failing(no_flags).await, ["storage us"]);
}

#[tokio::test]
async fn whoever_is_silent_fails_within_seconds() {
    // The kernel takes connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut wrong = Everything::new(&url);
    wrong.jwks = format!("jwks_url = \"{url}/jwks\"\n");
    let began = Instant::now();
    assert_eq!(wrong.failing(&[]).await, ["upstream hub", "issuer ci"]);
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}
