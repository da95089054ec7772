//! What a kubelet would say to containerd: pull an image, run a container from it, remove it.
//!
//! Pods use the host's network, so no CNI is needed. Their cgroups lie below one that carries the
//! lab's name, where the sweep finds them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ImageSpec, ImageStatusRequest, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PullImageRequest, RemoveImageRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use super::error::{Context, LabError, Result};
use super::host::Host;
use super::wait::{Seen, until};

/// No pull of any test may take longer.
const PULL_DEADLINE: Duration = Duration::from_secs(900);
/// Every other call.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// A connection to one containerd's CRI services.
#[derive(Debug, Clone)]
pub struct Cri {
    images: ImageServiceClient<Channel>,
    runtime: RuntimeServiceClient<Channel>,
    logs: PathBuf,
    cgroup: String,
}

/// An image as containerd holds it after a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// What PullImage returned: the configuration's digest.
    pub id: String,
    /// The digests of the manifests it is known by, without the repository.
    pub manifests: Vec<String>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status.
    pub code: i32,
    /// Standard output and error as CRI's log has them.
    pub output: String,
}

impl Cri {
    /// Connects and asks for the version, so that a success means that CRI answers.
    pub(crate) async fn connect(socket: &Path, host: &Host) -> Result<Self> {
        let path = socket.to_owned();
        // A proper authority: containerd's h2 would take a path, ours would not.
        let endpoint = Endpoint::from_static("http://containerd");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|failed| LabError::Unexpected(format!("{}: {failed}", socket.display())))?;
        let mut runtime = RuntimeServiceClient::new(channel.clone());
        let version = runtime.version(VersionRequest { version: "v1".to_owned() });
        answered("Version", CALL_DEADLINE, version).await?;
        Ok(Self {
            images: ImageServiceClient::new(channel),
            runtime,
            logs: host.directory().join("pods"),
            cgroup: format!("/{}", host.lab_name()),
        })
    }

    /// PullImage, then what containerd says it has under that name.
    pub async fn pull(&self, image: &str) -> Result<PulledImage> {
        let request = PullImageRequest { image: Some(spec(image)), ..Default::default() };
        let call = format!("PullImage {image}");
        let pulled =
            answered(&call, PULL_DEADLINE, self.images.clone().pull_image(request)).await?;
        let known = self.image(image).await?.ok_or_else(|| {
            LabError::Unexpected(format!("{call} succeeded, and containerd has no such image"))
        })?;
        if known.id != pulled.image_ref {
            let (id, other) = (known.id, pulled.image_ref);
            return Err(LabError::Unexpected(format!("{call} returned {other}, it is {id}")));
        }
        Ok(known)
    }

    /// The image under this name, if containerd has it.
    pub async fn image(&self, image: &str) -> Result<Option<PulledImage>> {
        let request = ImageStatusRequest { image: Some(spec(image)), verbose: false };
        let call = format!("ImageStatus {image}");
        let status =
            answered(&call, CALL_DEADLINE, self.images.clone().image_status(request)).await?;
        Ok(status.image.map(|image| {
            let digests = image.repo_digests.iter().filter_map(|name| name.split_once('@'));
            PulledImage {
                id: image.id,
                manifests: digests.map(|(_, digest)| digest.to_owned()).collect(),
            }
        }))
    }

    /// RemoveImage; containerd's garbage collection then drops its blobs.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let request = RemoveImageRequest { image: Some(spec(image)) };
        let call = format!("RemoveImage {image}");
        answered(&call, CALL_DEADLINE, self.images.clone().remove_image(request)).await.map(|_| ())
    }

    /// Runs `command` in a container of its own pod to its end, and removes the pod.
    pub async fn run(&self, image: &str, command: &[&str]) -> Result<Finished> {
        let pod = self.pod();
        let request =
            RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: String::new() };
        let mut runtime = self.runtime.clone();
        let sandbox =
            answered("RunPodSandbox", CALL_DEADLINE, runtime.run_pod_sandbox(request)).await?;
        let id = sandbox.pod_sandbox_id;
        let finished = self.run_in(&id, &pod, image, command).await;
        let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        answered("StopPodSandbox", CALL_DEADLINE, runtime.stop_pod_sandbox(stop)).await?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: id };
        answered("RemovePodSandbox", CALL_DEADLINE, runtime.remove_pod_sandbox(remove)).await?;
        finished
    }

    async fn run_in(
        &self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        image: &str,
        command: &[&str],
    ) -> Result<Finished> {
        let mut runtime = self.runtime.clone();
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "check".to_owned(), attempt: 0 }),
            image: Some(spec(image)),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: "check.log".to_owned(),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let call = format!("CreateContainer of {image}");
        let created = answered(&call, CALL_DEADLINE, runtime.create_container(request)).await?;
        let id = created.container_id;
        let start = StartContainerRequest { container_id: id.clone() };
        answered("StartContainer", CALL_DEADLINE, runtime.start_container(start)).await?;
        let code = until("the container's end", CALL_DEADLINE, async || {
            let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let mut runtime = self.runtime.clone();
            let status =
                answered("ContainerStatus", CALL_DEADLINE, runtime.container_status(request))
                    .await?;
            Ok(match status.status {
                Some(status) if status.state() == ContainerState::ContainerExited => {
                    Seen::Yes(status.exit_code)
                }
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await?;
        let log = Path::new(&pod.log_directory).join("check.log");
        let text = std::fs::read_to_string(&log).during(|| log.display().to_string())?;
        Ok(Finished { code, output: plain(&text) })
    }

    fn pod(&self) -> PodSandboxConfig {
        let uid = format!("{:016x}", rand::random::<u64>());
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        let security =
            LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: format!("check-{uid}"),
                uid: uid.clone(),
                namespace: "lab".to_owned(),
                attempt: 0,
            }),
            log_directory: self.logs.join(uid).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(security),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), annotations: HashMap::new(), ..Default::default() }
}

fn answered<T>(
    call: &str,
    deadline: Duration,
    answer: impl Future<Output = std::result::Result<Response<T>, Status>>,
) -> impl Future<Output = Result<T>> {
    // tonic's futures are large: kept off the callers' stacks.
    let answer = Box::pin(answer);
    async move {
        let answer = super::wait::within(call, deadline, answer).await?;
        answer
            .map(Response::into_inner)
            .map_err(|status| LabError::Cri { call: call.to_owned(), status: Box::new(status) })
    }
}

/// CRI's log lines are `<time> stdout|stderr F|P <text>`; a P goes on in the next line.
fn plain(log: &str) -> String {
    let mut output = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let partial = fields.next() == Some("P");
        output.push_str(fields.next().unwrap_or_default());
        if !partial {
            output.push('\n');
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cri_log_reads_as_the_container_wrote_it() {
        let log = "2026-01-01T00:00:00Z stdout P one \n2026-01-01T00:00:00Z stdout F two\n\
                   2026-01-01T00:00:00Z stderr F three four\n";
        assert_eq!(plain(log), "one two\nthree four\n");
    }
}
