//! Clients as they are: skopeo logs in and copies; the program itself is asked, and its log holds no
//! secret.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use longshore_registry::auth::users;
use longshore_registry::config::auth::{Rule, RuleAction};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::common::{PATIENCE, TestRegistry, image_manifest, sha256};

const PASSWORD: &str = "a-password-that-is-in-no-log";

/// An image of one layer as skopeo's `dir:` keeps it.
fn image_directory(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    let layer = b"not compressed, and nobody looks".as_slice();
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    for blob in [layer, config.as_slice()] {
        let digest = sha256(blob).to_string();
        std::fs::write(at.join(digest.strip_prefix("sha256:").unwrap()), blob).unwrap();
    }
    std::fs::write(at.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    std::fs::write(at.join("manifest.json"), image_manifest(config, &[layer])).unwrap();
}

async fn skopeo(arguments: &[&str], authfile: &Path, input: &str) -> Output {
    let mut command = Command::new("skopeo");
    command.args(arguments).arg("--authfile").arg(authfile).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may not want to read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn rule(subject: &str, repository: &str, actions: &[RuleAction]) -> Rule {
    Rule {
        subjects: vec![subject.to_owned()],
        repositories: vec![repository.to_owned()],
        actions: actions.to_vec(),
    }
}

#[tokio::test]
async fn skopeo_logs_in_copies_and_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let users_file = directory.path().join("users");
    users::put(&users_file, "alice", PASSWORD).unwrap();
    for basic in [true, false] {
        let registry = TestRegistry::start_with(|config| {
            config.auth.users_file = Some(users_file.clone());
            config.auth.basic = basic;
            config.auth.rule = vec![
                rule("user:alice", "team/*", &[RuleAction::All]),
                rule("*", "team/public", &[RuleAction::Pull]),
            ];
        })
        .await;
        let (image, authfile) = (directory.path().join("image"), directory.path().join("auth"));
        image_directory(&image);
        let nobody = directory.path().join("nobody");
        std::fs::write(&nobody, "{}").unwrap();
        let from = format!("dir:{}", image.display());
        let host = registry.address.to_string();
        let to = |name: &str| format!("docker://{host}/{name}");
        let copy = async |from: &str, to: &str, authfile: &PathBuf| {
            let clear = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
            let arguments = [clear.as_slice(), &["--preserve-digests", from, to]].concat();
            skopeo(&arguments, authfile, "").await
        };
        let login = ["login", "--tls-verify=false", "-u", "alice", "--password-stdin", &host];
        let wrong = skopeo(&login, &authfile, "wrong").await;
        assert!(!wrong.status.success());
        let right = skopeo(&login, &authfile, PASSWORD).await;
        assert!(right.status.success(), "{}", said(&right));

        for name in ["team/app:v1", "team/public:v1"] {
            let pushed = copy(&from, &to(name), &authfile).await;
            assert!(pushed.status.success(), "{}", said(&pushed));
        }
        // Which mounts, and so asks for both repositories at once.
        let copied = copy(&to("team/app:v1"), &to("team/copy:v1"), &authfile).await;
        assert!(copied.status.success(), "{}", said(&copied));
        let pulled = format!("dir:{}", directory.path().join("pulled").display());
        let public = copy(&to("team/public:v1"), &pulled, &nobody).await;
        assert!(public.status.success(), "{}", said(&public));

        let outside = copy(&from, &to("other/app:v1"), &authfile).await;
        assert!(!outside.status.success());
        let unknown = copy(&to("team/app:v1"), &pulled, &nobody).await;
        assert!(!unknown.status.success());
        let delete = ["delete", "--tls-verify=false", &to("team/copy:v1")];
        let deleted = skopeo(&delete, &authfile, "").await;
        assert!(deleted.status.success(), "{}", said(&deleted));
    }
}

/// The program with users, its log in a file.
struct Program {
    child: tokio::process::Child,
    directory: tempfile::TempDir,
}

impl Program {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        users::put(&at("users"), "alice", PASSWORD).unwrap();
        std::fs::write(at("join"), "a-join-token-of-nobody\n").unwrap();
        let key = at("token-key");
        std::fs::write(&key, "a-secret-that-signs-tokens-and-nothing-else").unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
        command.env_clear().kill_on_drop(true);
        for (name, value) in [
            ("SERVE_LISTEN", "127.0.0.1:0".into()),
            ("ADMIN_LISTEN", "127.0.0.1:0".into()),
            ("STORAGE_URL", format!("file://{}", at("store").display())),
            ("IDENTITY_SIGNING_KEY_FILE", at("keys/signing.pem").display().to_string()),
            ("AUTH_USERS_FILE", at("users").display().to_string()),
            ("AUTH_TOKEN_KEYS", key.display().to_string()),
            ("JOIN_TOKEN_FILE", at("join").display().to_string()),
            ("LOG_FILTER", "trace".into()),
            ("LOG_FORMAT", "json".into()),
        ] {
            command.env(format!("LONGSHORE_{name}"), value);
        }
        command.stderr(std::fs::File::create(at("log")).unwrap());
        Self { child: command.spawn().unwrap(), directory }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Once it says so.
    async fn address(&self) -> String {
        let find = || {
            let log = self.log();
            let said: Vec<Value> =
                log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            said.iter().find_map(|line| {
                line["fields"]["admin"].as_str()?;
                line["fields"]["address"].as_str().map(str::to_owned)
            })
        };
        let found = async {
            loop {
                match find() {
                    Some(address) => return address,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap()
    }
}

#[tokio::test]
async fn no_secret_is_in_the_log_even_when_everything_is_logged() {
    let mut program = Program::start();
    let url = format!("http://{}", program.address().await);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new();
    let token_url = format!("{url}/token?scope=repository:a:pull,push");
    let answer = client.get(&token_url).basic_auth("alice", Some(PASSWORD)).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let token = answer["token"].as_str().unwrap();
    let wrong = "a-password-that-somebody-guessed";
    let refused = client.get(&token_url).basic_auth("alice", Some(wrong)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let form = format!("grant_type=password&username=alice&password={PASSWORD}");
    let by_form = client.post(format!("{url}/token")).body(form).send().await.unwrap();
    assert_eq!(by_form.status(), StatusCode::OK);
    let digest = sha256(b"blob");
    let push = format!("{url}/v2/a/blobs/uploads/?digest={digest}");
    let pushed = client.post(push).bearer_auth(token).body("blob").send().await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let basic = client.get(format!("{url}/v2/")).basic_auth("alice", Some(PASSWORD));
    assert_eq!(basic.send().await.unwrap().status(), StatusCode::OK);
    let forged = client.get(format!("{url}/v2/")).bearer_auth("forged.token-of.somebody");
    assert_eq!(forged.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    program.child.kill().await.unwrap();
    let log = program.log();
    assert!(log.contains("longshore_registry::audit") && log.contains("issue_token"));
    let signature = token.rsplit('.').next().unwrap();
    let users = std::fs::read_to_string(program.directory.path().join("users")).unwrap();
    let hash = users.trim().rsplit('$').next().unwrap();
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("alice:{PASSWORD}"));
    for secret in [
        PASSWORD,
        wrong,
        signature,
        hash,
        &basic,
        "a-secret-that-signs-tokens",
        "a-join-token-of-nobody",
        "token-of.somebody",
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
