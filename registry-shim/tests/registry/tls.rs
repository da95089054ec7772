//! TLS on the main port: both protocols, client certificates, broken and new files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_registry::StartError;
use longshore_registry::config::Config;
use longshore_registry::config::tls::ClientCertificates;
use longshore_registry::{Instance, serve};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Certificate, Client, ClientBuilder, Identity, StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{PATIENCE, TestRegistry, header, until};

/// An authority and what it issued, as files.
struct Pki {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let this = Self { directory: tempfile::tempdir().unwrap(), authority };
        std::fs::write(this.path("ca.pem"), this.authority.pem()).unwrap();
        this.issue("server");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `NAME.pem` and `NAME.key`, for localhost and 127.0.0.1.
    fn issue(&self, name: &str) -> (String, String) {
        self.issue_until(name, 2100)
    }

    fn issue_until(&self, name: &str, year: i32) -> (String, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn configure(&self, config: &mut Config) {
        config.tls.certificate_file = Some(self.path("server.pem"));
        config.tls.key_file = Some(self.path("server.key"));
    }

    fn client(&self) -> ClientBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = Certificate::from_pem(self.authority.pem().as_bytes()).unwrap();
        Client::builder().no_proxy().tls_certs_only([root])
    }
}

async fn status(client: &Client, registry: &TestRegistry) -> reqwest::Result<StatusCode> {
    let answer = client.get(format!("https://{}/v2/", registry.address)).send().await?;
    Ok(answer.status())
}

async fn served_leaf(pki: &Pki, address: SocketAddr) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn both_versions_and_grpc_are_served_and_the_admin_port_stays_clear() {
    let pki = Pki::new();
    let registry = TestRegistry::start_with(|config| pki.configure(config)).await;
    let either = pki.client().build().unwrap();
    let answer = either.get(format!("https://{}/v2/", registry.address)).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let old = pki.client().http1_only().build().unwrap();
    let answer = old.get(format!("https://{}/v2/", registry.address)).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_11));

    // An empty Join, framed by hand: what answers is the service, and it says what is wrong.
    let grpc = either
        .post(format!("https://{}/longshore.origin.v1.Membership/Join", registry.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(vec![0; 5])
        .send()
        .await
        .unwrap();
    assert_eq!(header(&grpc, "grpc-status"), "9");

    assert_eq!(registry.metric("longshore_registry_tls_handshakes_total").await, 2);
    let expiry = registry.metric("longshore_registry_tls_certificate_expiry_seconds").await;
    assert_eq!(expiry, 4_102_444_800);
    registry.stop().await;
}

#[tokio::test]
async fn a_clear_request_and_a_silent_client_get_nothing_and_are_counted() {
    let pki = Pki::new();
    let registry = TestRegistry::start_with(|config| pki.configure(config)).await;
    let mut clear = TcpStream::connect(registry.address).await.unwrap();
    clear.write_all(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    let failed = "longshore_registry_tls_handshakes_total{outcome=\"failed\"}";
    until("a failed handshake", async || registry.metric(failed).await == 1).await;
    let silent = TcpStream::connect(registry.address).await.unwrap();
    until("the connection", async || registry.metric("longshore_registry_connections ").await == 1)
        .await;
    // A handshake under way does not hold up the end.
    tokio::time::timeout(PATIENCE, registry.stop()).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_configured() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let identity = |pki: &Pki| {
        let (certificate, key) = pki.issue("client");
        Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()
    };
    for (wanted, without) in
        [(ClientCertificates::Optional, true), (ClientCertificates::Required, false)]
    {
        let registry = TestRegistry::start_with(|config| {
            pki.configure(config);
            config.tls.client_ca_file = Some(pki.path("ca.pem"));
            config.tls.client_certificates = wanted;
        })
        .await;
        let known = pki.client().identity(identity(&pki)).build().unwrap();
        assert_eq!(status(&known, &registry).await.unwrap(), StatusCode::OK);
        let unknown = pki.client().identity(identity(&stranger)).build().unwrap();
        assert!(status(&unknown, &registry).await.is_err(), "a stranger's authority");
        let nobody = pki.client().build().unwrap();
        assert_eq!(status(&nobody, &registry).await.is_ok(), without, "{wanted:?}");
        drop((known, unknown, nobody));
        registry.stop().await;
    }
}

#[tokio::test]
async fn new_files_are_taken_and_broken_ones_are_not() {
    let pki = Pki::new();
    let mut config = Config::default();
    config.serve.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.storage.url = "memory:".parse().unwrap();
    config.identity.signing_key_file = pki.path("keys/signing.pem");
    pki.configure(&mut config);
    let instance = Instance::start(&config).await.unwrap();
    let (address, admin, reload) =
        (instance.address(), instance.admin_address(), instance.reload());
    let ends = serve::Ends::default();
    let running = tokio::spawn(instance.run_until(ends.clone()));
    let reloads = async |outcome: &str| {
        let text = clear(admin, "/metrics").await;
        let name = format!("longshore_registry_tls_reloads_total{{outcome=\"{outcome}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let first = served_leaf(&pki, address).await;

    std::fs::write(pki.path("server.pem"), "nothing").unwrap();
    reload.now();
    until("a refusal", async || reloads("failed").await == 1).await;
    assert_eq!(served_leaf(&pki, address).await, first, "the old one stays");

    pki.issue_until("server", 2002);
    reload.now();
    until("an expired one is refused", async || reloads("failed").await == 2).await;
    assert_eq!(served_leaf(&pki, address).await, first);

    pki.issue("server");
    reload.now();
    until("the new one", async || reloads("ok").await == 1).await;
    let second = served_leaf(&pki, address).await;
    assert_ne!(second, first);

    // Nobody says a word: the change is noticed.
    let rewritten = pki.path("server-new");
    pki.issue("server-new");
    for end in ["pem", "key"] {
        let new = rewritten.with_extension(end);
        std::fs::rename(new, pki.path(&format!("server.{end}"))).unwrap();
    }
    until("a change without a signal", async || served_leaf(&pki, address).await != second).await;
    ends.drain.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn files_that_can_not_be_used_are_wrong_configuration_by_key() {
    let pki = Pki::new();
    pki.issue("other");
    let garbage = pki.path("garbage");
    std::fs::write(&garbage, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n").unwrap();
    let (pem, key, other) = (pki.path("server.pem"), pki.path("server.key"), pki.path("other.key"));
    let missing = Path::new("/nonexistent.pem").to_owned();
    for (certificate, key, authorities, wanted, wrong) in [
        (Some(&pem), None, None, false, "tls.key_file"),
        (None, Some(&key), None, false, "tls.certificate_file"),
        (None, None, Some(&pem), false, "tls.certificate_file"),
        (Some(&pem), Some(&key), None, true, "tls.client_ca_file"),
        (Some(&missing), Some(&key), None, false, "tls.certificate_file"),
        (Some(&garbage), Some(&key), None, false, "tls.certificate_file"),
        (Some(&pem), Some(&garbage), None, false, "tls.key_file"),
        (Some(&pem), Some(&other), None, false, "tls.key_file"),
        (Some(&pem), Some(&key), Some(&garbage), false, "tls.client_ca_file"),
    ] {
        let mut config = Config::default();
        config.storage.url = "memory:".parse().unwrap();
        config.identity.signing_key_file = pki.path("keys/signing.pem");
        config.tls.certificate_file = certificate.cloned();
        config.tls.key_file = key.cloned();
        config.tls.client_ca_file = authorities.cloned();
        if wanted {
            config.tls.client_certificates = ClientCertificates::Required;
        }
        let error = Instance::start(&config).await.unwrap_err();
        assert!(matches!(error, StartError::Config { key, .. } if key == wrong), "{error}");
        let line = error.to_string();
        assert!(!line.contains("c2VjcmV0") && line.lines().count() == 1, "{line}");
    }
}

/// One clear GET; its body.
async fn clear(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
