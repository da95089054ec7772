//! The program itself on a store in memory and free ports, and its end.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use reqwest::{Client, StatusCode};

use crate::common::PATIENCE;

/// The program on free ports; ended with the test, however that ends.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) client: Client,
    /// What it has said since.
    said: Arc<Mutex<Vec<serde_json::Value>>>,
    _directory: tempfile::TempDir,
}

impl Program {
    pub(crate) fn start(flags: &[&str]) -> Self {
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
        let later: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
        let kept = later.clone();
        std::thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let address = |name: &str| said["fields"][name].as_str().unwrap().parse().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().build().unwrap();
        let (address, admin) = (address("address"), address("admin"));
        Self { child, address, admin, client, said: later, _directory: directory }
    }

    /// Log lines of this target, as far as they have come.
    pub(crate) fn lines(&self, target: &str) -> Vec<serde_json::Value> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|line| line["target"] == target).cloned().collect()
    }

    pub(crate) fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) async fn ready(&self) -> (StatusCode, String) {
        let answer = self.client.get(format!("http://{}/readyz", self.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
