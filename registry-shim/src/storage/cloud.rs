//! Cloud stores: credentials, endpoints, and two clients for each.
//!
//! A client's timeout covers the whole request, body included, so one client cannot serve both:
//! small records must fail fast enough for the caller's client (containerd gives up after 30 s
//! without headers), and a layer may take an hour as long as it moves. Secrets come from a file or
//! from the environment and reach nothing but the builder.

use std::fmt::Display;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::open::{Bucket, OpenError};
use super::split::Split;
use crate::config;

/// How long a cloud store may take.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    /// To a listening socket, TLS included.
    connect: Duration,
    /// One try of a record.
    record: Duration,
    /// Between two reads of a blob's bytes, and for a part's whole upload.
    stall: Duration,
    /// No try begins later than this after the first.
    retry: Duration,
}

/// A record's last try ends 23 s after its first began.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    record: Duration::from_secs(8),
    stall: Duration::from_secs(20),
    retry: Duration::from_secs(15),
};
const RETRIES_MAX: usize = 3;
/// More than any credentials file has.
const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;

/// A store and what signs for it.
type Opened = (Arc<dyn ObjectStore>, Arc<dyn Signer>);

pub(super) fn s3(config: &config::Storage, bucket: &Bucket) -> Result<Opened, OpenError> {
    s3_within(config, bucket, TIMEOUTS)
}

fn s3_within(
    config: &config::Storage,
    bucket: &Bucket,
    timeouts: Timeouts,
) -> Result<Opened, OpenError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&bucket.name)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_retry(retries(timeouts));
    for (key, value) in credentials(config)? {
        let key: AmazonS3ConfigKey = key.to_ascii_lowercase().parse().map_err(|_| unknown(&key))?;
        builder = builder.with_config(key, value);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    open(config, bucket, timeouts, |endpoint, options| {
        let builder = builder.clone().with_client_options(options);
        match endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint).build(),
            None => builder.build(),
        }
    })
}

pub(super) fn google(config: &config::Storage, bucket: &Bucket) -> Result<Opened, OpenError> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&bucket.name)
        .with_retry(retries(TIMEOUTS));
    if let Some(file) = &config.credentials_file {
        builder = builder.with_service_account_key(read_secret(file)?);
    }
    open(config, bucket, TIMEOUTS, |endpoint, options| {
        let builder = builder.clone().with_client_options(options);
        match endpoint {
            Some(endpoint) => builder.with_base_url(endpoint).build(),
            None => builder.build(),
        }
    })
}

pub(super) fn azure(config: &config::Storage, bucket: &Bucket) -> Result<Opened, OpenError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(&bucket.name)
        .with_retry(retries(TIMEOUTS));
    for (key, value) in credentials(config)? {
        let key: AzureConfigKey = key.to_ascii_lowercase().parse().map_err(|_| unknown(&key))?;
        builder = builder.with_config(key, value);
    }
    if let Some(account) = &config.account {
        builder = builder.with_account(account);
    }
    open(config, bucket, TIMEOUTS, |endpoint, options| {
        let builder = builder.clone().with_client_options(options);
        match endpoint {
            Some(endpoint) => builder.with_endpoint(endpoint.to_owned()).build(),
            None => builder.build(),
        }
    })
}

/// Two clients of one store, and what signs: at the address that clients reach, where that is
/// another. `build` makes a client at an address, or where the builder is by itself.
fn open<S: ObjectStore + Signer + Clone + Display>(
    config: &config::Storage,
    bucket: &Bucket,
    timeouts: Timeouts,
    build: impl Fn(Option<&str>, ClientOptions) -> object_store::Result<S>,
) -> Result<Opened, OpenError> {
    let build =
        |endpoint: &Option<String>, options| build(endpoint.as_deref(), options).map_err(refused);
    let bytes = build(&config.endpoint, bytes_client(config, timeouts))?;
    let signer = match &config.redirect_endpoint {
        None => bytes.clone(),
        elsewhere => build(elsewhere, bytes_client(config, timeouts))?,
    };
    let records = build(&config.endpoint, records_client(config, timeouts))?;
    Ok((split(records, bytes, bucket), Arc::new(signer)))
}

fn split<S: ObjectStore>(records: S, bytes: S, bucket: &Bucket) -> Arc<dyn ObjectStore> {
    let prefix = || bucket.prefix.clone();
    let (records, bytes) = (PrefixStore::new(records, prefix()), PrefixStore::new(bytes, prefix()));
    Arc::new(Split::new(records, bytes))
}

fn records_client(config: &config::Storage, timeouts: Timeouts) -> ClientOptions {
    client(config, timeouts).with_timeout(timeouts.record)
}

fn bytes_client(config: &config::Storage, timeouts: Timeouts) -> ClientOptions {
    client(config, timeouts).with_timeout_disabled().with_read_timeout(timeouts.stall)
}

fn client(config: &config::Storage, timeouts: Timeouts) -> ClientOptions {
    ClientOptions::new().with_connect_timeout(timeouts.connect).with_allow_http(config.allow_http)
}

fn retries(timeouts: Timeouts) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 3.0,
    };
    RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: timeouts.retry }
}

/// Lines `key = value` of the credentials file, those of its `[default]` section where it has
/// sections: an AWS credentials file is one.
fn credentials(config: &config::Storage) -> Result<Vec<(String, String)>, OpenError> {
    let Some(file) = &config.credentials_file else { return Ok(Vec::new()) };
    let (mut found, mut counts) = (Vec::new(), true);
    for line in read_secret(file)?.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            counts = line == "[default]";
        } else if let Some((key, value)) = line.split_once('=') {
            if counts {
                found.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        } else {
            return Err(bad_file(format!("{} has a line without =", file.display())));
        }
    }
    Ok(found)
}

fn read_secret(file: &FilePath) -> Result<String, OpenError> {
    let io = |error: std::io::Error| bad_file(format!("cannot use {}: {error}", file.display()));
    let metadata = std::fs::metadata(file).map_err(io)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(bad_file(format!("{} has mode {mode:03o} and not 600", file.display())));
    }
    if metadata.len() > CREDENTIALS_BYTES_MAX {
        return Err(bad_file(format!("{} is too large", file.display())));
    }
    std::fs::read_to_string(file).map_err(io)
}

const fn bad_file(message: String) -> OpenError {
    OpenError::Config { key: "storage.credentials_file", message }
}

/// The key's name is no secret; what is no key at all is not repeated.
fn unknown(key: &str) -> OpenError {
    let is_name = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let name = if is_name { key } else { "a key" };
    bad_file(format!("{name} is none of this store's settings"))
}

/// The builders' errors name what is missing, not its value; one line is enough.
fn refused(error: object_store::Error) -> OpenError {
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().to_owned();
    OpenError::Config { key: "storage.url", message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "c2VjcmV0LXRoYXQtbXVzdC1ub3Qtc2hvdw==";

    fn config(url: &str, credentials: &str, mode: u32) -> (tempfile::TempDir, config::Storage) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials");
        std::fs::write(&file, credentials).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let url = url.parse().unwrap();
        let config = config::Storage { url, credentials_file: Some(file), ..Default::default() };
        (directory, config)
    }

    #[test]
    fn credentials_come_from_a_file_and_never_show() {
        let s3 = format!(
            "[other]\nnonsense = 1\n[default]\n# mine\naws_access_key_id = AKIA\n\
             aws_secret_access_key={SECRET}\n"
        );
        let azure = format!("account_name = some\naccount_key = {SECRET}\n");
        for (url, text) in [("s3://bucket", s3), ("az://bucket", azure)] {
            let (_directory, config) = config(url, &text, 0o600);
            let opened = config.open().unwrap();
            assert!(opened.presigner.is_some());
            for shown in [format!("{opened:?}"), opened.store.to_string(), format!("{config:?}")] {
                assert!(!shown.contains(SECRET), "{shown}");
            }
        }
    }

    #[test]
    fn a_file_that_can_not_work_is_refused_without_its_secret() {
        let cases = [
            (format!("aws_secret_access_key={SECRET}"), 0o644, "mode 644"),
            (SECRET.trim_end_matches('=').to_owned(), 0o600, "without ="),
            (format!("no_such_key = {SECRET}"), 0o600, "no_such_key is none"),
            (SECRET.to_owned(), 0o600, "a key is none"),
        ];
        for (text, mode, expected) in cases {
            let (_directory, config) = config("s3://bucket", &text, mode);
            let error = config.open().unwrap_err().to_string();
            assert!(error.starts_with("storage.credentials_file: "), "{error}");
            assert!(error.contains(expected) && !error.contains("c2Vj"), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    /// Answers a GET with 9 bytes, one per `pause`, or with nothing after the head.
    async fn answer(mut stream: tokio::net::TcpStream, pause: Option<Duration>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut request = vec![0; 8192];
        let _ = stream.read(&mut request).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\netag: \"e\"\r\n\
                    last-modified: Sun, 22 Nov 2026 00:00:00 GMT\r\n\r\n";
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let Some(pause) = pause else { return std::future::pending().await };
        for byte in b"slow-blob" {
            tokio::time::sleep(pause).await;
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    }

    async fn slow_server(pause: Option<Duration>) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, pause));
            }
        });
        address
    }

    async fn get(server: std::net::SocketAddr, key: &str) -> object_store::Result<bytes::Bytes> {
        use object_store::ObjectStoreExt as _;
        let text = "aws_access_key_id = id\naws_secret_access_key = secret\n";
        let (_directory, config) = config("s3://bucket", text, 0o600);
        let endpoint = Some(format!("http://{server}"));
        let config = config::Storage { endpoint, allow_http: true, ..config };
        let bucket = "bucket".parse().unwrap();
        let ms = Duration::from_millis;
        let timeouts =
            Timeouts { connect: ms(2000), record: ms(600), stall: ms(600), retry: ms(1000) };
        let (store, _) = s3_within(&config, &bucket, timeouts).unwrap();
        store.get(&key.into()).await?.bytes().await
    }

    #[tokio::test]
    async fn bytes_may_take_long_while_they_move_and_records_may_not() {
        // All nine take three times as long as a record may, each a third of a stall.
        let server = slow_server(Some(Duration::from_millis(200))).await;
        let (bytes, record) = tokio::join!(get(server, "data/ab/1/x"), get(server, "blob/x"));
        assert_eq!(bytes.unwrap(), "slow-blob");
        assert!(record.is_err(), "{record:?}");
    }

    #[tokio::test]
    async fn a_store_that_stalls_is_given_up() {
        let server = slow_server(None).await;
        let both = async { tokio::join!(get(server, "data/ab/1/x"), get(server, "blob/x")) };
        let bound = Duration::from_secs(20);
        let (bytes, record) = tokio::time::timeout(bound, both).await.expect("an end");
        assert!(bytes.is_err() && record.is_err(), "{bytes:?} {record:?}");
    }
}
