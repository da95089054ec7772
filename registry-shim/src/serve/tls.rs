//! TLS of the main port: its files, the handshake, and their change while it serves.
//!
//! Owns the configuration that new connections get. A broken new file never replaces a good one:
//! the old one stays, the log and a metric say so. Keys never reach a log. Connections that are open
//! keep what they were made with.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::tls::{ClientCertificates, Tls as Config};

/// From the connection's start to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once that have said hello: each costs a signature and some round trips.
const HANDSHAKES_MAX: usize = 512;
/// How often the files are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// A chain and a bundle of authorities have some hundred kilobytes at most.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Files that can not be used, by the key that names them.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct TlsError {
    /// `tls.key_file`
    pub key: &'static str,
    /// One line, without anything of the file's content.
    pub message: String,
}

/// Whose certificate ends when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// `server`
    pub certificate: &'static str,
}

/// How something went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `ok`, `failed`, `timed_out`
    pub outcome: &'static str,
}

/// What TLS counts.
#[derive(Clone, Debug, Default)]
pub struct TlsMetrics {
    /// Handshakes that ended, by outcome.
    pub handshakes: Family<OutcomeLabels, Counter>,
    /// Times that the files were read anew, by outcome; the start is not counted.
    pub reloads: Family<OutcomeLabels, Counter>,
    /// Unix time at which the certificate in use ends.
    pub expiry: Family<CertificateLabels, Gauge>,
}

/// Encrypts connections; clones share the files' present content.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Config,
    current: ArcSwap<ServerConfig>,
    handshakes: Semaphore,
    stamp: Mutex<Stamp>,
    metrics: TlsMetrics,
}

/// What changes when a file does: length, time, and identity for files replaced by a rename.
type Stamp = Vec<Option<(u64, Option<SystemTime>, u64)>>;

/// The files' content, made usable.
struct Loaded {
    server: ServerConfig,
    expires_at_s: i64,
}

impl TlsMetrics {
    /// Enters them; `registry` gives the prefix.
    pub fn register(&self, registry: &mut Registry) {
        let handshakes = "TLS handshakes that ended, by outcome";
        registry.register("handshakes", handshakes, self.handshakes.clone());
        let reloads = "Times that TLS files were read anew, by outcome";
        registry.register("reloads", reloads, self.reloads.clone());
        let expiry = "Unix time at which the certificate in use ends";
        registry.register("certificate_expiry_seconds", expiry, self.expiry.clone());
    }

    fn loaded(&self, loaded: &Loaded) {
        let labels = CertificateLabels { certificate: "server" };
        self.expiry.get_or_create(&labels).set(loaded.expires_at_s);
    }
}

impl Tls {
    /// Reads the files; `None` where none is configured.
    pub fn open(files: &Config, metrics: TlsMetrics) -> Result<Option<Self>, TlsError> {
        if !files.is_on()? {
            return Ok(None);
        }
        let stamp = stamp(files);
        let loaded = load(files)?;
        metrics.loaded(&loaded);
        if loaded.expires_at_s <= now_s() {
            tracing::error!(expired_at_s = loaded.expires_at_s, "the TLS certificate has expired");
        }
        Ok(Some(Self(Arc::new(Inner {
            files: files.clone(),
            current: ArcSwap::from_pointee(loaded.server),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            stamp: Mutex::new(stamp),
            metrics,
        }))))
    }

    /// The handshake, under its deadline; `None` when it failed, which is counted.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let outcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(stream)).await;
        let (label, stream) = match outcome {
            Ok(Ok(stream)) => ("ok", Some(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "handshake failed");
                ("failed", None)
            }
            Err(_) => ("timed_out", None),
        };
        self.0.metrics.handshakes.get_or_create(&OutcomeLabels { outcome: label }).inc();
        stream
    }

    async fn shake(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        // Whoever says nothing takes no place from those who do.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let _place = self.0.handshakes.acquire().await.map_err(std::io::Error::other)?;
        hello.into_stream(self.0.current.load_full()).await
    }

    /// Reads the files anew when they changed, and whenever `reload` says so, until `ended`.
    pub async fn watch(&self, mut reload: watch::Receiver<u64>, ended: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = ended.cancelled() => return,
                changed = reload.changed() => changed.is_ok(),
                () = tokio::time::sleep(LOOK_PERIOD) => false,
            };
            let this = self.clone();
            let read = tokio::task::spawn_blocking(move || this.reload(told)).await;
            if let Err(error) = read {
                tracing::error!(%error, "reading TLS files");
            }
        }
    }

    /// Takes what the files hold now, if they changed or `told` to.
    fn reload(&self, told: bool) {
        let new = stamp(&self.0.files);
        {
            let mut known = self.0.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == new && !told {
                return;
            }
            *known = new;
        }
        let outcome = match load(&self.0.files).and_then(Loaded::still_valid) {
            Ok(loaded) => {
                self.0.metrics.loaded(&loaded);
                tracing::info!(expires_at_s = loaded.expires_at_s, "new TLS files are in use");
                self.0.current.store(Arc::new(loaded.server));
                "ok"
            }
            Err(error) => {
                tracing::error!(%error, "the old TLS files stay in use");
                "failed"
            }
        };
        self.0.metrics.reloads.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

impl Loaded {
    fn still_valid(self) -> Result<Self, TlsError> {
        if self.expires_at_s > now_s() {
            return Ok(self);
        }
        Err(bad("tls.certificate_file", "the certificate has expired"))
    }
}

/// Reads and checks all files, for use or for `check`; the certificate's end, in Unix seconds.
pub fn check(files: &Config) -> Result<Option<i64>, TlsError> {
    Ok(if files.is_on()? { Some(load(files)?.expires_at_s) } else { None })
}

fn load(files: &Config) -> Result<Loaded, TlsError> {
    let (certificate_key, key_key) = ("tls.certificate_file", "tls.key_file");
    let chain = certificates(certificate_key, files.certificate_file.as_deref())?;
    let pem = read(key_key, files.key_file.as_deref())?;
    // The parser's error may quote what it read.
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| bad(key_key, "no private key in PEM (PKCS#8, PKCS#1 or SEC1)"))?;
    let expires_at_s = expiry(&chain[0])?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(certificate_key, error))?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let ca_key = "tls.client_ca_file";
            let mut roots = RootCertStore::empty();
            for authority in certificates(ca_key, Some(path))? {
                roots.add(authority).map_err(|error| bad(ca_key, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.client_certificates {
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
                ClientCertificates::Required => verifier,
            };
            let verifier = verifier.build().map_err(|error| bad(ca_key, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| bad(key_key, error))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Resumption without memory; with the configuration its keys go, and so do old authorities.
    server.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| bad(key_key, error))?;
    Ok(Loaded { server, expires_at_s })
}

fn certificates(
    key: &'static str,
    path: Option<&Path>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(key, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(bad(key, "no certificate in PEM")),
    }
}

fn expiry(leaf: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|_| bad("tls.certificate_file", "the first certificate is malformed"))?;
    Ok(parsed.validity().not_after.timestamp())
}

fn read(key: &'static str, path: Option<&Path>) -> Result<Vec<u8>, TlsError> {
    let path = path.ok_or_else(|| bad(key, "is missing"))?;
    let read = || {
        let mut content = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        Ok::<_, std::io::Error>(content)
    };
    read().map_err(|error| bad(key, format!("cannot read {}: {error}", path.display())))
}

fn stamp(files: &Config) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok(), metadata.ino()))
    };
    files.paths().map(stamp).collect()
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn bad(key: &'static str, message: impl std::fmt::Display) -> TlsError {
    TlsError { key, message: message.to_string() }
}
