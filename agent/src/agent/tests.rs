//! An agent in this process, on ports of its own, without an origin.

use std::path::Path;

use longshore_proto::sign::SigningKey;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::config::RawConfig;

/// Nobody listens there: the port is bound and closed again.
async fn unused_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// A configuration that touches nothing outside `directory`.
fn config(directory: &Path, origin_port: u16, more: &str) -> Config {
    let (key, _) = SigningKey::generate();
    let home = directory.display();
    let text = format!(
        "origin.url = 'http://127.0.0.1:{origin_port}'\n\
         origin.signing_keys = ['{}']\n\
         swarm.listen = '127.0.0.1:0'\n\
         admin.listen = '127.0.0.1:0'\n\
         containerd.hosts_dir = '{home}/certs.d'\n\
         store.path = '{home}/store'\n\
         store.bytes_max = 1000000\n\
         control.socket = '{home}/agent.sock'\n{more}",
        key.public()
    );
    Config::try_from(toml::from_str::<RawConfig>(&text).unwrap()).unwrap()
}

const PORT_0: &str = "mirror.listen = '127.0.0.1:0'\n";

async fn start(directory: &TempDir, origin_port: u16) -> Agent {
    let config = config(directory.path(), origin_port, PORT_0);
    Agent::start(config, Arc::default(), None).await.unwrap()
}

fn hosts_file(directory: &TempDir, origin_port: u16) -> std::path::PathBuf {
    directory.path().join(format!("certs.d/127.0.0.1_{origin_port}_/hosts.toml"))
}

async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_without_its_origin_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let origin_port = unused_port().await;
    let agent = start(&directory, origin_port).await;
    let addresses = agent.addresses();

    let hosts = std::fs::read_to_string(hosts_file(&directory, origin_port)).unwrap();
    assert!(hosts.contains(&format!("[host.\"http://{}\"]", addresses.mirror)), "{hosts}");
    assert!(hosts.contains(&agent.secret().unwrap().authorization()));
    assert!(get(addresses.admin, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(addresses.admin, "/metrics").await;
    assert!(metrics.contains("longshore_agent_ready 1\n"), "{metrics}");
    // Without the secret, another local user learns nothing.
    let refused = get(addresses.mirror, "/v2/").await;
    assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");

    let socket = directory.path().join("agent.sock");
    let line = format!("--socket={}", socket.display());
    let line = ["longshore", &line, "status"].map(std::ffi::OsString::from).to_vec();
    let status = tokio::task::spawn_blocking(move || crate::cli::output_of(line)).await.unwrap();
    let status = status.unwrap();
    assert!(status.contains("NOT JOINED") && status.contains("hosts.toml written"), "{status}");

    assert!(agent.stop().await);
    assert!(!hosts_file(&directory, origin_port).parent().unwrap().exists());
    assert!(!socket.exists());
    assert!(tokio::net::TcpStream::connect(addresses.mirror).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named_and_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = config(directory.path(), 1, &format!("mirror.listen = '{address}'\n"));
    let error = Agent::start(config, Arc::default(), None).await.unwrap_err();
    assert_eq!(error.to_string(), format!("mirror.listen: address {address} is in use"));
    assert_eq!(error.exit_code(), 69);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_store_leaves_the_first_ones_hosts_file() {
    let directory = tempfile::tempdir().unwrap();
    let origin_port = unused_port().await;
    let first = start(&directory, origin_port).await;
    let second = config(directory.path(), origin_port, PORT_0);
    let error = Agent::start(second, Arc::default(), None).await.unwrap_err();
    assert!(error.to_string().starts_with("store.path: "), "{error}");
    assert_eq!(error.exit_code(), 69);
    assert!(hosts_file(&directory, origin_port).exists());
    assert!(first.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_hosts_file_is_left_alone_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let origin_port = unused_port().await;
    let own = hosts_file(&directory, origin_port);
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "server = 'https://mine'\n").unwrap();
    let agent = start(&directory, origin_port).await;
    let metrics = get(agent.addresses().admin, "/metrics").await;
    assert!(metrics.contains("longshore_agent_hosts_foreign 1\n"), "{metrics}");
    assert!(agent.stop().await);
    assert_eq!(std::fs::read_to_string(&own).unwrap(), "server = 'https://mine'\n");
}
