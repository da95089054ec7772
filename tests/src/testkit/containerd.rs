//! One containerd of one host: its own root, state, socket and mount namespace.
//!
//! A private tmpfs lies over /run inside that mount namespace, so shim sockets and runc's state
//! are its own; overlays are mounted there only and vanish with its last process. It ends with
//! everything that lives in the host's namespace: shims outlive containerd.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::cri::Cri;
use super::error::{Context, LabError, Result};
use super::host::Host;
use super::process::Process;
use super::programs::ContainerdPrograms;
use super::sweep::remove_tree;
use super::wait::{Seen, until};

/// From exec until CRI answers; 80 to 300 ms when the machine is idle.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What the lab's sandboxes run; imported before the first pod.
pub const PAUSE_IMAGE: &str = "localhost/longshore-pause:1";

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    host: Host,
    programs: ContainerdPrograms,
    directory: PathBuf,
    process: Process,
    cri: Cri,
}

impl Containerd {
    /// Starts it on empty state and waits until CRI answers.
    pub async fn start(host: &Host, programs: &ContainerdPrograms) -> Result<Self> {
        let directory = host.directory().join("containerd");
        for part in ["root", "state", "opt"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).during(|| path.display().to_string())?;
        }
        fs::create_dir_all(hosts_dir(host)).during(|| hosts_dir(host).display().to_string())?;
        let configuration = directory.join("config.toml");
        let text = configuration_text(host, &directory);
        fs::write(&configuration, text).during(|| configuration.display().to_string())?;
        let process = launch(host, programs, &configuration)?;
        let socket = directory.join("containerd.sock");
        let cri = until("containerd's CRI", READY_DEADLINE, async || {
            process.check_alive()?;
            match Cri::connect(&socket, host).await {
                Ok(cri) => Ok(Seen::Yes(cri)),
                Err(failed) => Ok(Seen::NotYet(failed.to_string())),
            }
        })
        .await?;
        Ok(Self { host: host.clone(), programs: programs.clone(), directory, process, cri })
    }

    /// The version of its package.
    pub fn version(&self) -> &str {
        &self.programs.version
    }

    /// Its CRI services.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// Its content store's directory of sha256 blobs.
    pub fn blobs(&self) -> PathBuf {
        self.directory.join("root/io.containerd.content.v1.content/blobs/sha256")
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// Runs `ctr` of its version in CRI's namespace.
    pub async fn ctr<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let socket = self.socket().display().to_string();
        let args = args.into_iter().map(Into::into);
        self.host
            .command(self.programs.bin.join("ctr"))
            .args(["--address", &socket, "--namespace", "k8s.io"])
            .args(args.collect::<Vec<String>>())
            .deadline(Duration::from_secs(120))
            .run_async()
            .await
    }

    /// Imports an image from an OCI archive on disk.
    pub async fn import(&self, archive: &std::path::Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.ctr(["images", "import", "--no-unpack", &archive]).await.map(|_| ())
    }

    /// Stops it, its shims and containers, and removes all it stored.
    pub async fn destroy(self) -> Result<()> {
        self.process.stop(STOP_GRACE).await?;
        let (host, directory) = (self.host.clone(), self.directory.clone());
        let swept = tokio::task::spawn_blocking(move || {
            host.kill_everything();
            remove_tree(&directory).during(|| directory.display().to_string())
        });
        swept.await.map_err(|failed| LabError::Unexpected(failed.to_string()))?
    }
}

/// Where this host's containerd looks for hosts.toml.
pub fn hosts_dir(host: &Host) -> PathBuf {
    host.directory().join("certs.d")
}

/// What containerd does without an agent: `registry` (host:port) is asked in clear text. Any
/// registry without a directory of its own finds this.
pub fn write_default_hosts(host: &Host, registry: &str) -> Result<()> {
    let directory = hosts_dir(host).join("_default");
    fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
    let text = format!(
        "server = \"http://{registry}\"\n\n[host.\"http://{registry}\"]\n  \
         capabilities = [\"pull\", \"resolve\"]\n"
    );
    let path = directory.join("hosts.toml");
    fs::write(&path, text).during(|| path.display().to_string())
}

/// `nsenter` (by the host), `unshare`, `sh` and containerd follow each other in one process.
fn launch(
    host: &Host,
    programs: &ContainerdPrograms,
    configuration: &std::path::Path,
) -> Result<Process> {
    let script = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/containerd && exec \"$@\"";
    let path = std::env::var("PATH").unwrap_or_default();
    let path =
        format!("{}:{}:{path}:/usr/sbin:/sbin", programs.bin.display(), programs.runc.display());
    let containerd = programs.bin.join("containerd");
    host.start(
        "containerd",
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
            &containerd.display().to_string(),
            "--config",
            &configuration.display().to_string(),
        ],
        vec![("PATH".to_owned(), path)],
    )
}

/// Version 2 of the configuration: 1.6 and 1.7 speak it, 2.x migrates it.
fn configuration_text(host: &Host, directory: &std::path::Path) -> String {
    let directory = directory.display();
    let hosts = hosts_dir(host);
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{directory}/containerd.sock"
[ttrpc]
  address = "{directory}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_selinux = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{hosts}"
"#,
        hosts = hosts.display()
    )
}
