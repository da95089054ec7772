//! Debian's docker-registry on a directory, without authentication: the other side of the ratio.

use super::images::{SmallImage, Target};
use super::options::Options;
use super::script::{Layers, node_start};
use super::{Measured, cold, warm};
use crate::load::Outcome;
use crate::testkit::error::Result;
use crate::testkit::loopback::Loopback;
use crate::testkit::{Guard, LocalDockerRegistry};

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
    let open = Guard::default();
    let registry = LocalDockerRegistry::start(loopback, &open).await?;
    let target = Target { client: reqwest::Client::new(), url: registry.url(), basic: None };
    target.push(images).await?;
    drop(registry);
    let registry = LocalDockerRegistry::start(loopback, &open).await?;
    let address = registry.address();
    let script = node_start(address, images, Layers::Head, None);
    let cold = cold(options, address, &script).await?;
    let warm = warm(options, address, registry.process().pid(), &script).await?;
    Ok(Docker { cold, warm })
}
