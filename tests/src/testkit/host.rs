//! A machine of the lab: a namespace, an address, a shaped link and a directory.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::{Algorithm, Digest, DigestHasher};

use super::command::Run;
use super::error::{Context, LabError, Result};
use super::lab::Core;
use super::link::{self, Counter, Rate};
use super::metrics::Metrics;
use super::netns::Namespace;
use super::process::{Process, Spec};
use super::sweep;

/// One small request.
const HTTP_DEADLINE: Duration = Duration::from_secs(15);
/// One blob over the slowest link of any test.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(120);

/// A host on the lab's wire. Its clones are the same host; it leaves the wire with its lab.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped before the lab is removed: its thread leaves the namespace.
    namespace: Namespace,
    role: String,
    port: String,
    address: Ipv4Addr,
    directory: PathBuf,
    lab: Arc<Core>,
}

impl Host {
    pub(crate) fn join(lab: Arc<Core>, role: &str, address: Ipv4Addr, rate: Rate) -> Result<Self> {
        let namespace = Namespace::create(lab.name.namespace(role))?;
        let port = format!("port{}", address.octets()[3]);
        link::join(&lab.hub, &namespace, &port, address, rate)?;
        let directory = lab.directory.join(role);
        fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
        let role = role.to_owned();
        Ok(Self { inner: Arc::new(Inner { namespace, role, port, address, directory, lab }) })
    }

    /// Its name in the lab.
    pub fn role(&self) -> &str {
        &self.inner.role
    }

    /// Its address on the lab's wire.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// Where its programs keep their files.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// The lab's name: the first part of its cgroups.
    pub(crate) fn lab_name(&self) -> String {
        self.inner.lab.name.to_string()
    }

    /// A short-lived command on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.inner.namespace.command(program)
    }

    /// Starts a long-lived program on this host; its log is `<name>.log`.
    pub fn start<S: Into<String>>(
        &self,
        name: &str,
        line: impl IntoIterator<Item = S>,
        envs: Vec<(String, String)>,
    ) -> Result<Process> {
        let entry = self.inner.namespace.enter().into_iter().chain(["--".to_owned()]);
        Process::start(Spec {
            name: format!("{}/{name}", self.inner.role),
            line: entry.chain(line.into_iter().map(Into::into)).collect(),
            envs,
            log: self.inner.directory.join(format!("{name}.log")),
            ledger: self.inner.lab.directory.join(sweep::PROCESSES),
        })
    }

    /// What has passed its link.
    pub async fn counter(&self) -> Result<Counter> {
        let counters = self.inner.lab.counters().await?;
        counters.get(&self.inner.port).copied().ok_or_else(|| {
            LabError::Unexpected(format!("{} has no link any more", self.inner.role))
        })
    }

    /// What has passed the links of several hosts of one lab at one moment, in their order.
    pub async fn counters(hosts: &[Self]) -> Result<Vec<Counter>> {
        let Some(first) = hosts.first() else { return Ok(Vec::new()) };
        let all = first.inner.lab.counters().await?;
        let one = |host: &Self| all.get(&host.inner.port).copied().unwrap_or_default();
        Ok(hosts.iter().map(one).collect())
    }

    /// Changes its link's rate.
    pub fn reshape(&self, rate: Rate) -> Result<()> {
        link::reshape(&self.inner.lab.hub, &self.inner.namespace, &self.inner.port, rate)
    }

    /// Pulls its cable: packets vanish without a word to either side.
    pub fn unplug(&self) -> Result<()> {
        link::set_carrier(&self.inner.lab.hub, &self.inner.port, false)
    }

    /// Puts the cable back.
    pub fn plug(&self) -> Result<()> {
        link::set_carrier(&self.inner.lab.hub, &self.inner.port, true)
    }

    /// A file system of this size of its own, to be filled up. It goes with the lab.
    pub fn small_disk(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.inner.directory.join(name);
        fs::create_dir_all(&path).during(|| path.display().to_string())?;
        let size = format!("size={bytes}");
        Run::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).run()?;
        Ok(path)
    }

    /// Kills every process of this host, containers included.
    pub fn kill_everything(&self) {
        sweep::kill_inside(self.inner.namespace.name());
    }

    /// GET from inside this host: status and body as text.
    pub async fn get(&self, url: &str) -> Result<(u16, String)> {
        let (status, body) = self.request(reqwest::Method::GET, url, &[], Vec::new()).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// GET with a `Range` header.
    pub async fn get_range(&self, url: &str, range: &str) -> Result<(u16, Vec<u8>)> {
        self.request(reqwest::Method::GET, url, &[("range", range)], Vec::new()).await
    }

    /// A small request from inside this host: status and body.
    pub async fn request(
        &self,
        method: reqwest::Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>)> {
        let what = format!("{method} {url} on {}", self.inner.role);
        let url = url.to_owned();
        let headers = headers.iter().map(|&(name, value)| (name, value.to_owned()));
        let headers: Vec<(&str, String)> = headers.collect();
        let exchange = async move {
            let request = client()?.request(method, url).timeout(HTTP_DEADLINE).body(body);
            let add = |request: reqwest::RequestBuilder, (name, value)| request.header(name, value);
            let response = headers.into_iter().fold(request, add).send().await?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.bytes().await?.to_vec()))
        };
        self.inner.namespace.run(exchange).await?.map_err(|source| LabError::Http { what, source })
    }

    /// GET of something large: status and the digest of the body, which is not kept.
    pub async fn download_hashed(&self, url: &str) -> Result<(u16, Digest)> {
        let (status, digest, _) = self.read_body(url).await?;
        Ok((status, digest))
    }

    /// GET of something large: status and the body's length.
    pub async fn download(&self, url: &str) -> Result<(u16, u64)> {
        let (status, _, bytes) = self.read_body(url).await?;
        Ok((status, bytes))
    }

    async fn read_body(&self, url: &str) -> Result<(u16, Digest, u64)> {
        let what = format!("GET {url} on {}", self.inner.role);
        let url = url.to_owned();
        let exchange = async move {
            let mut response = client()?.get(url).timeout(DOWNLOAD_DEADLINE).send().await?;
            let (mut hasher, mut bytes) = (DigestHasher::new(Algorithm::Sha256), 0);
            while let Some(chunk) = response.chunk().await? {
                hasher.update(&chunk);
                bytes += chunk.len() as u64;
            }
            Ok::<_, reqwest::Error>((response.status().as_u16(), hasher.finish(), bytes))
        };
        self.inner.namespace.run(exchange).await?.map_err(|source| LabError::Http { what, source })
    }

    /// The Prometheus metrics that a program shows on this host.
    pub async fn metrics(&self, url: &str) -> Result<Metrics> {
        let (status, body) = self.get(url).await?;
        if status != 200 {
            return Err(LabError::Unexpected(format!("{url}: status {status}: {body}")));
        }
        Metrics::parse(&body)
    }
}

/// A client that neither follows redirects nor asks the environment for a proxy.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()
}
