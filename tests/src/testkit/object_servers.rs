//! Object stores of others that are spoken to over the wire: real ones and emulators.
//!
//! A server is started on a [`Site`]: the machine's loopback with a free port, or a host of a lab.
//! It is killed when it is dropped; its data lies in its site's directory. The programs are made
//! once in the cache. What an emulator cannot do is said where it is started.

mod azurite;
mod garage;
mod gcs;
mod listing;
mod moto;

use std::path::Path;
use std::time::Duration;

use super::cache::Cache;
use super::command::Run;
use super::error::{Context, LabError, Result};
use super::host::{Host, client};
use super::lab::require_tool;
use super::loopback::{Loopback, free_port};
use super::process::Process;
use super::wait::{Seen, until};

/// The bucket that every server starts with: S3 wants at least three characters.
pub const BUCKET: &str = "longshore";

/// Python programs load for seconds on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(90);
/// Compiling Garage on two busy cores takes most of this.
const INSTALL_DEADLINE: Duration = Duration::from_secs(3600);
/// Free ports that were taken before the program had them.
const PORT_ATTEMPTS: u32 = 4;
/// One small request.
const HTTP_DEADLINE: Duration = Duration::from_secs(15);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Rust S3 server: durable, presigns, **ignores `If-None-Match: *` and overwrites**.
    Garage,
    /// Python's S3 mock: refuses a second Create with 412 as AWS does; keeps all in memory.
    Moto,
    /// Microsoft's Azure emulator.
    Azurite,
    /// A Python emulator of Google's JSON API.
    Gcs,
}

/// Where a server runs.
#[derive(Debug, Clone)]
pub enum Site {
    /// 127.0.0.1 and free ports.
    Loopback(Loopback),
    /// A namespace of a lab, with ports of its own.
    Host(Host),
}

/// A running server and what a client needs of it.
#[derive(Debug)]
pub struct ObjectServer {
    process: Process,
    kind: Kind,
    /// `http://ADDRESS:PORT`
    endpoint: String,
    credentials: Vec<(String, String)>,
    /// Program and arguments, and its environment.
    line: Vec<String>,
    envs: Vec<(String, String)>,
    ready: &'static str,
}

/// How a server is started on given ports.
struct Plan {
    line: Vec<String>,
    envs: Vec<(String, String)>,
    /// GET of this path answers once the server is there.
    ready: &'static str,
    endpoint: String,
    credentials: Vec<(String, String)>,
}

impl ObjectServer {
    /// Starts a server with an empty bucket [`BUCKET`] and waits until it answers.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] where the program cannot be made on this machine.
    pub async fn start(site: &Site, kind: Kind) -> Result<Self> {
        let program = tokio::task::spawn_blocking(move || {
            let cache = Cache::open()?;
            match kind {
                Kind::Garage => garage::program(&cache),
                Kind::Moto => moto::program(&cache),
                Kind::Azurite => azurite::program(&cache),
                Kind::Gcs => gcs::program(&cache),
            }
        });
        let program = program.await.map_err(|lost| LabError::Unexpected(lost.to_string()))??;
        let mut attempt = 1;
        loop {
            let plan = match kind {
                Kind::Garage => garage::plan(site, &program)?,
                Kind::Moto => moto::plan(site, &program)?,
                Kind::Azurite => azurite::plan(site, &program)?,
                Kind::Gcs => gcs::plan(site, &program)?,
            };
            match Self::try_start(site, kind, plan).await {
                // Perhaps somebody was faster on its port.
                Err(LabError::Died { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    async fn try_start(site: &Site, kind: Kind, plan: Plan) -> Result<Self> {
        let Plan { line, envs, ready, endpoint, credentials } = plan;
        let process = site.start(kind.name(), line.clone(), envs.clone())?;
        let server = Self { process, kind, endpoint, credentials, line, envs, ready };
        server.answers(site, &server.process).await?;
        match kind {
            Kind::Garage => garage::bucket_is_there(site, &server).await?,
            Kind::Moto => moto::make_bucket(site, &server).await?,
            Kind::Azurite => azurite::make_container(site, &server).await?,
            // Made by its own command line.
            Kind::Gcs => {}
        }
        Ok(server)
    }

    async fn answers(&self, site: &Site, process: &Process) -> Result<()> {
        let url = format!("{}{}", self.endpoint, self.ready);
        until(&format!("{} answers", self.kind.name()), READY_DEADLINE, async || {
            process.check_alive()?;
            Ok(match site.request(reqwest::Method::GET, &url, Vec::new()).await {
                Ok(_) => Seen::Yes(()),
                Err(failed) => Seen::NotYet(failed.to_string()),
            })
        })
        .await
    }

    /// Starts its program once more on the same ports and data, after it was killed; it runs for as
    /// long as what is returned. What a server keeps in memory is gone.
    pub async fn start_again(&self, site: &Site) -> Result<Process> {
        let process = site.start(self.kind.name(), self.line.clone(), self.envs.clone())?;
        self.answers(site, &process).await?;
        Ok(process)
    }

    /// Which it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// `http://ADDRESS:PORT`
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What `storage.url` says for its bucket.
    pub fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Garage | Kind::Moto => "s3",
            Kind::Azurite => "az",
            Kind::Gcs => "gs",
        };
        format!("{scheme}://{BUCKET}")
    }

    /// The environment with which a client is let in; the secrets are made up.
    pub fn credentials(&self) -> &[(String, String)] {
        &self.credentials
    }

    /// Its process, to be paused, cut off or killed.
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Garage => "garage",
            Self::Moto => "moto",
            Self::Azurite => "azurite",
            Self::Gcs => "gcs-emulator",
        }
    }
}

impl Site {
    /// Where its programs keep their files.
    pub fn directory(&self) -> &Path {
        match self {
            Self::Loopback(loopback) => loopback.directory(),
            Self::Host(host) => host.directory(),
        }
    }

    /// The address that its programs listen on.
    pub fn address(&self) -> String {
        match self {
            Self::Loopback(_) => "127.0.0.1".to_owned(),
            Self::Host(host) => host.address().to_string(),
        }
    }

    /// A free port of the loopback; in a namespace of its own the usual one is free.
    fn port(&self, usual: u16) -> Result<u16> {
        match self {
            Self::Loopback(_) => free_port(),
            Self::Host(_) => Ok(usual),
        }
    }

    /// Starts a long-lived program there.
    pub(crate) fn start(
        &self,
        name: &str,
        line: Vec<String>,
        envs: Vec<(String, String)>,
    ) -> Result<Process> {
        match self {
            Self::Loopback(loopback) => loopback.start_program(name, line, envs),
            Self::Host(host) => host.start(name, line, envs),
        }
    }

    /// A small request to a server there: its status.
    async fn request(&self, method: reqwest::Method, url: &str, body: Vec<u8>) -> Result<u16> {
        self.request_with(method, url, &[], body).await
    }

    async fn request_with(
        &self,
        method: reqwest::Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> Result<u16> {
        if let Self::Host(host) = self {
            return Ok(host.request(method, url, headers, body).await?.0);
        }
        let what = format!("{method} {url}");
        let failed = |source| LabError::Http { what, source };
        let sent = async {
            let request = client()?.request(method, url).timeout(HTTP_DEADLINE).body(body);
            let add = |request: reqwest::RequestBuilder, (name, value): &(&'static str, &str)| {
                request.header(*name, *value)
            };
            headers.iter().fold(request, add).send().await
        };
        sent.await.map(|response| response.status().as_u16()).map_err(failed)
    }
}

/// A Python environment of its own with this requirement; the entry's directory.
fn python(cache: &Cache, key: &str, requirement: &str) -> Result<std::path::PathBuf> {
    cache.entry("programs", key, |half| {
        // The system's own: a version manager's would not outlive its next version.
        let python = ["/usr/bin/python3".into(), "python3".into()];
        let python = python.into_iter().find(|path: &std::path::PathBuf| path.exists());
        let python = match python {
            Some(python) => python,
            None => require_tool("python3", "deps")?,
        };
        Run::new(python).args(["-m", "venv", "--copies"]).arg(half.join("venv")).run()?;
        let pip = Run::new(half.join("venv/bin/python")).args(["-m", "pip", "install", "--quiet"]);
        pip.args(["--no-cache-dir", "--disable-pip-version-check", requirement])
            .deadline(INSTALL_DEADLINE)
            .run()
            .map(|_| ())
    })
}

/// Checks that an entry holds its program.
fn complete(program: std::path::PathBuf) -> Result<std::path::PathBuf> {
    std::fs::metadata(&program).during(|| format!("{} (make clean-lab)", program.display()))?;
    Ok(program)
}
