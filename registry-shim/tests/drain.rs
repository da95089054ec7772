//! The end: SIGTERM tells load balancers, lets pushes under way finish, and comes to exit 0.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use common::{content, header, sha256};
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// The program on free ports; ended with the test, however that ends.
struct Program {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Program {
    fn start(flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("signing.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore-registry"));
        command.env_clear().args(["serve", "--log-format=json", "--storage-url=memory:"]);
        command.args(["--serve-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
        command.arg(format!("--identity-signing-key-file={}", key.display())).args(flags);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = log
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap())
            .find(|said| !said["fields"]["admin"].is_null())
            .expect("it says where it serves");
        // Whatever it says later must find room.
        std::thread::spawn(move || log.for_each(drop));
        let address = |name: &str| said["fields"][name].as_str().unwrap().parse().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let (address, admin) = (address("address"), address("admin"));
        Self { child, address, admin, client, _directory: directory }
    }

    fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    async fn ready(&self) -> (StatusCode, String) {
        let answer = self.client.get(format!("http://{}/readyz", self.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

async fn until_not_ready(program: &Program) {
    let not_ready = async {
        while program.ready().await.0 != StatusCode::SERVICE_UNAVAILABLE {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, not_ready).await.unwrap();
    assert_eq!(program.ready().await.1, "draining\n");
}

#[tokio::test]
async fn a_push_under_way_at_sigterm_is_finished_and_nobody_new_is_let_in() {
    let mut program = Program::start(&[]);
    let base = format!("http://{}", program.address);
    let begin = program.client.post(format!("{base}/v2/apps/web/blobs/uploads/"));
    let location = header(&begin.send().await.unwrap(), "location");
    let blob = content(1 << 20, 3);
    let mut push = TcpStream::connect(program.address).await.unwrap();
    let put = format!(
        "PUT {location}?digest={} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        sha256(&blob),
        blob.len()
    );
    push.write_all(put.as_bytes()).await.unwrap();
    // The invitation proves that the push is under way.
    let mut invited = [0; 25];
    push.read_exact(&mut invited).await.unwrap();
    assert_eq!(&invited, b"HTTP/1.1 100 Continue\r\n\r\n");
    push.write_all(&blob[..1000]).await.unwrap();

    program.terminate();
    until_not_ready(&program).await;
    let refused = async {
        while TcpStream::connect(program.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    push.write_all(&blob[1000..]).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, push.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    program.client = Client::builder().no_proxy().build().unwrap();
    assert_eq!(program.ended().await.code(), Some(0));
}

#[tokio::test]
async fn load_balancers_have_time_to_notice_and_a_second_sigterm_cuts_it() {
    let mut program = Program::start(&["--serve-drain-delay-ms=600000"]);
    program.terminate();
    until_not_ready(&program).await;
    let alive = program.client.get(format!("http://{}/livez", program.admin)).send().await;
    assert_eq!(alive.unwrap().status(), StatusCode::OK);
    let late = program.client.get(format!("http://{}/v2/", program.address)).send().await;
    assert_eq!(late.unwrap().status(), StatusCode::OK, "it serves whoever still comes");

    program.terminate();
    assert_eq!(program.ended().await.code(), Some(0));
}
