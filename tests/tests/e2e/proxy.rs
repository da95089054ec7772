//! The fault proxy does what it is told: otherwise the tests that use it show nothing.

use std::time::Duration;

use longshore_tests::image::push;
use longshore_tests::testkit::proxy::{Fault, HttpProxy, Rule, TcpProxy};
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{DockerRegistry, Rate};

use crate::harness::{MB, SOON, in_lab};

#[tokio::test(flavor = "multi_thread")]
async fn an_http_proxy_breaks_the_requests_it_is_told_to_and_no_other() {
    in_lab(async |stage| {
        let image = stage.image(6, &[MB]).await?;
        let host = stage.lab.host("registry", Rate::UNSHAPED)?;
        let registry = DockerRegistry::start(&host, &stage.programs).await?;
        push(&host, &image, &format!("{}/app:1", registry.authority())).await?;
        let proxy_host = stage.lab.host("proxy", Rate::UNSHAPED)?;
        let proxy = HttpProxy::start(&proxy_host, 0, (host.address(), 5000).into()).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let digest = image.layers[0].digest;
        let layer = format!("{}/v2/app/blobs/{digest}", proxy.url());

        assert_eq!(client.download_hashed(&layer).await?, (200, digest));
        proxy.set(vec![Rule::on("/blobs/", Fault::CorruptAt(5)).times(1)]);
        assert_ne!(client.download_hashed(&layer).await?.1, digest);
        assert_eq!(client.download_hashed(&layer).await?, (200, digest));
        proxy.set(vec![Rule::on("/blobs/", Fault::CutAfter(1000))]);
        assert!(client.download_hashed(&layer).await.is_err(), "a cut body looked whole");
        proxy.set(vec![Rule::on("/blobs/", Fault::StallAfter(1000))]);
        let stalled = client.download_hashed(&layer);
        assert!(tokio::time::timeout(Duration::from_secs(2), stalled).await.is_err());
        proxy.set(vec![Rule::on("/manifests/", Fault::Status(503))]);
        assert_eq!(client.get(&format!("{}/v2/app/manifests/1", proxy.url())).await?.0, 503);
        assert_eq!(client.download_hashed(&layer).await?, (200, digest));
        assert!(proxy.requests().iter().any(|request| request.ends_with("/v2/app/manifests/1")));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_proxy_can_be_broken_and_mended_while_a_connection_is_open() {
    in_lab(async |stage| {
        let image = stage.image(6, &[MB]).await?;
        let host = stage.lab.host("registry", Rate::mbit(8))?;
        let registry = DockerRegistry::start(&host, &stage.programs).await?;
        push(&host, &image, &format!("{}/app:1", registry.authority())).await?;
        let proxy_host = stage.lab.host("proxy", Rate::UNSHAPED)?;
        let proxy = TcpProxy::start(&proxy_host, 0, (host.address(), 5000).into()).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let digest = image.layers[0].digest;
        let url = format!("http://{}/v2/app/blobs/{digest}", proxy.address());

        proxy.set(Fault::StallAfter(200_000));
        let mend = async {
            until("the stall", SOON, async || {
                let received = client.counter().await?.to_host;
                Ok(if received >= 200_000 {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(received.to_string())
                })
            })
            .await?;
            proxy.set(Fault::Pass);
            Ok(())
        };
        let (downloaded, mended) = tokio::join!(client.download_hashed(&url), mend);
        mended?;
        assert_eq!(downloaded?, (200, digest));
        assert_eq!(proxy.connections(), 1);
        proxy.set(Fault::CutAfter(0));
        assert!(client.download_hashed(&url).await.is_err());
        Ok(())
    })
    .await;
}
