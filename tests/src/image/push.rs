//! Pushing with skopeo, as a user's CI does.

use std::time::Duration;

use super::layout::{Image, REFERENCE};
use crate::testkit::error::Result;
use crate::testkit::host::Host;
use crate::testkit::lab::require_tool;

/// For the largest image over the slowest link of any test.
const DEADLINE: Duration = Duration::from_secs(600);

/// Copies the image into a registry with skopeo run on `host`; on the registry's own host its
/// link is not crossed. `reference` is `10.77.0.1:5000/repository:tag`.
pub async fn push(host: &Host, image: &Image, reference: &str) -> Result<()> {
    let source = format!("oci:{}:{REFERENCE}", image.layout.display());
    skopeo(host, &[&source, &format!("docker://{reference}")]).await
}

/// `skopeo copy` in clear text, digests preserved.
pub async fn skopeo(host: &Host, from_to: &[&str; 2]) -> Result<()> {
    let skopeo = require_tool("skopeo", "deps")?;
    host.command(skopeo)
        .args(["--insecure-policy", "copy", "--preserve-digests"])
        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(from_to)
        .deadline(DEADLINE)
        .run_async()
        .await
        .map(|_| ())
}
