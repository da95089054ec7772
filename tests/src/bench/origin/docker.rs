//! Debian's docker-registry on a directory, without authentication: the other side of the ratio.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::images::{SmallImage, Target};
use super::options::Options;
use super::script::{Layers, node_start};
use super::{Measured, cold, warm};
use crate::load::Outcome;
use crate::testkit::cache::Cache;
use crate::testkit::error::{Context, LabError, Result};
use crate::testkit::loopback::{Loopback, free_port};
use crate::testkit::process::Process;
use crate::testkit::programs::Programs;
use crate::testkit::wait::{Seen, until};

const READY_DEADLINE: Duration = Duration::from_secs(30);

/// What docker-registry did.
#[derive(Debug)]
pub(super) struct Docker {
    /// A new process.
    pub(super) cold: Outcome,
    /// The same process after that.
    pub(super) warm: Measured,
}

pub(super) async fn measure(
    loopback: &Loopback,
    options: &Options,
    images: &[SmallImage],
) -> Result<Docker> {
    let (process, address) = start(loopback).await?;
    let url = format!("http://{address}");
    Target { client: reqwest::Client::new(), url, basic: None }.push(images).await?;
    drop(process);
    let (process, address) = start(loopback).await?;
    let script = node_start(address, images, Layers::Head, None);
    let cold = cold(options, address, &script).await?;
    let warm = warm(options, address, process.pid(), &script).await?;
    Ok(Docker { cold, warm })
}

async fn start(loopback: &Loopback) -> Result<(Process, SocketAddr)> {
    let binary = tokio::task::spawn_blocking(|| Programs::new(Cache::open()?).docker_registry());
    let binary = binary.await.map_err(|lost| LabError::Unexpected(lost.to_string()))??;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let directory = loopback.directory();
    let configuration = directory.join("docker-registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
        directory.join("docker-registry").display()
    );
    fs::write(&configuration, text).during(|| configuration.display().to_string())?;
    let line = [binary.display().to_string(), "serve".into(), configuration.display().to_string()];
    let environment = vec![("OTEL_TRACES_EXPORTER".to_owned(), "none".to_owned())];
    let process = loopback.start_program("docker-registry", line, environment)?;
    let url = format!("http://{address}/v2/");
    until("docker-registry's answer", READY_DEADLINE, async || {
        process.check_alive()?;
        Ok(match reqwest::get(&url).await {
            Ok(answer) if answer.status() == 200 => Seen::Yes(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await?;
    Ok((process, address))
}
