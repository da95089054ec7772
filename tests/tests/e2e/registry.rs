//! The registry as its users' own tools see it: skopeo, containerd, oci-client.

use std::collections::BTreeSet;

use longshore_tests::image::push::skopeo;
use longshore_tests::image::{Image, layout};
use longshore_tests::testkit::error::Context;
use longshore_tests::testkit::{LabError, Node, Rate, Registry, Result};
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use crate::harness::{MB, Origin, in_lab, pull, run_check};

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_gets_back_what_skopeo_pushed() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(13, &[3 * MB, MB]).await?).await?;
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_and_pushes_without_an_agent() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(13, &[3 * MB, MB]).await?).await?;
        let (parts, authority) = (stage.parts().await?, origin.registry.authority());
        let node = Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &authority).await?;
        pull(&node, &origin).await?;
        run_check(&node, &origin).await?;

        let pushed = format!("{authority}/other/name:2");
        node.containerd.ctr(["images", "tag", &origin.reference, &pushed]).await?;
        node.containerd.ctr(["images", "push", "--plain-http", &pushed]).await?;
        let renamed = Origin { reference: pushed, ..origin };
        comes_back_whole(&renamed, &stage.lab.directory().join("copy")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_client_pushes_and_pulls() {
    in_lab(async |stage| {
        let image = stage.image(14, &[5 * MB, MB]).await?;
        let registry = Registry::start(&stage.lab.host("registry", Rate::UNSHAPED)?).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let reference = format!("{}/rust/app:v1", registry.authority());
        let exchange = oci_client_round_trip(image.clone(), reference.clone());
        client.namespace().run(exchange).await??;
        let origin = Origin { registry, image, reference };
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_registry_still_has_everything_and_the_same_keys() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(13, &[3 * MB, MB]).await?).await?;
        let keys = origin.registry.signing_keys().to_owned();
        let host = origin.registry.host().clone();
        origin.kill_registry().await?;
        let registry = Registry::start(&host).await?;
        assert_eq!(registry.signing_keys(), keys);
        let origin = Origin { registry, ..origin };
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}

/// Copies the image out with skopeo and compares every blob's digest.
pub(crate) async fn comes_back_whole(origin: &Origin, to: &std::path::Path) -> Result<()> {
    let source = format!("docker://{}", origin.reference);
    let target = format!("oci:{}:{}", to.display(), layout::REFERENCE);
    skopeo(origin.registry.host(), &[&source, &target]).await?;
    let blobs = origin.image.layers.iter().chain([&origin.image.config]);
    for digest in blobs.map(|blob| blob.digest).chain([origin.image.digest]) {
        let copy = to.join("blobs/sha256").join(digest.hex());
        assert_eq!(layout::file_digest(&copy)?, digest);
    }
    Ok(())
}

async fn oci_client_round_trip(image: Image, reference: String) -> Result<()> {
    let wrong = |failed: &dyn std::fmt::Display| LabError::Unexpected(failed.to_string());
    let reference: Reference = reference.parse().map_err(|failed| wrong(&failed))?;
    let client =
        Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let mut layers = Vec::new();
    for layer in &image.layers {
        let path = image.blob(&layer.digest);
        let bytes = std::fs::read(&path).during(|| path.display().to_string())?;
        layers.push(ImageLayer::new(bytes, layer.media_type.clone(), None));
    }
    let path = image.blob(&image.config.digest);
    let config = std::fs::read(&path).during(|| path.display().to_string())?;
    let config = Config::new(config, image.config.media_type.clone(), None);
    let manifest: OciImageManifest =
        serde_json::from_slice(&image.manifest).map_err(|failed| wrong(&failed))?;
    let auth = RegistryAuth::Anonymous;
    client
        .push(&reference, &layers, config, &auth, Some(manifest))
        .await
        .map_err(|failed| wrong(&failed))?;
    let types = image.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    let pulled = client.pull(&reference, &auth, types).await.map_err(|failed| wrong(&failed))?;
    // It keeps no order among layers.
    let digests = |layers: &[ImageLayer]| {
        layers.iter().map(ImageLayer::sha256_digest).collect::<BTreeSet<_>>()
    };
    assert_eq!(digests(&pulled.layers), digests(&layers));
    Ok(())
}
