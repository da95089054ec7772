//! The registry over a real S3 server: containerd reads layers from the server itself, agents read
//! what their permits name from the registry.

use longshore_tests::image::push;
use longshore_tests::testkit::origin::make_key;
use longshore_tests::testkit::{Backend, Host, Node, Rate, Registry, Result, Site};

use crate::harness::{MB, Origin, Stage, in_lab, pull, run_check};

/// A registry over a Garage on a host of its own, with one image.
async fn over_garage(stage: &Stage, store: &Host) -> Result<(Origin, impl Sized)> {
    let garage = Backend::Garage.start(&Site::Host(store.clone())).await?;
    let host = stage.lab.host("registry", Rate::UNSHAPED)?;
    make_key(&host.directory().join("keys/signing.pem"))?;
    let mut settings = garage.settings().clone();
    let credentials = garage.write_credentials(host.directory())?;
    settings.set("storage.credentials_file", credentials.display());
    let registry = Registry::start_with(&host, &settings).await?;
    let image = stage.image(13, &[3 * MB, MB]).await?;
    let reference = format!("{}/team/app:1", registry.authority());
    push(registry.host(), &image, &reference).await?;
    Ok((Origin { registry, image, reference }, garage))
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_follows_redirects_to_garage() {
    in_lab(async |stage| {
        let store = stage.lab.host("store", Rate::UNSHAPED)?;
        let (origin, _garage) = over_garage(stage, &store).await?;
        let (parts, authority) = (stage.parts().await?, origin.registry.authority());
        let node = Node::start(&stage.lab, "node1", Rate::UNSHAPED, &parts, &authority).await?;

        let before = (origin.sent().await?, store.counter().await?.from_host);
        pull(&node, &origin).await?;
        run_check(&node, &origin).await?;
        let (sent, given) =
            (origin.sent().await? - before.0, store.counter().await?.from_host - before.1);
        assert!(sent < MB / 2, "the registry sent {sent} bytes itself");
        assert!(given >= origin.image.bytes(), "the store gave {given} bytes");
        let metrics = origin.registry.metrics().await?;
        let redirects = metrics.sum_with("longshore_registry_requests_total", "status", "307");
        assert!(redirects >= 2, "{redirects} redirects for two layers");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_pulls_through_a_registry_that_redirects() {
    in_lab(async |stage| {
        let store = stage.lab.host("store", Rate::UNSHAPED)?;
        let (origin, _garage) = over_garage(stage, &store).await?;
        let member = origin.node(stage, "node1", Rate::UNSHAPED).await?;
        member.pull_and_run(&origin).await?;
        let metrics = member.agent.metrics().await?;
        let bytes = metrics.sum("longshore_origin_received_bytes_total");
        assert!(bytes >= origin.image.bytes(), "the agent fetched {bytes} bytes");
        Ok(())
    })
    .await;
}
