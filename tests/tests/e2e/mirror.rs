//! The agent's mirror as any HTTP client on the node sees it.

use std::os::unix::fs::PermissionsExt;

use futures::future::try_join_all;
use longshore_tests::testkit::agent::MIRROR;
use longshore_tests::testkit::containerd::hosts_dir;
use longshore_tests::testkit::{Agent, AgentOptions, Rate};

use crate::harness::{MB, in_lab};

const CLIENTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_requests_for_a_blob_are_one_download() {
    in_lab(async |stage| {
        let image = stage.image(11, &[12 * MB]).await?;
        let origin = stage.origin(Rate::mbit(60), image).await?;
        let options = AgentOptions::joined(&origin.registry).with("mirror.open", true);
        let host = stage.lab.host("node1", Rate::mbit(60))?;
        let agent = Agent::start(&host, &options).await?;
        let url = format!("http://{MIRROR}{}", origin.layer_path(0));
        let layer = &origin.image.layers[0];

        let before = origin.sent().await?;
        let answers = try_join_all((0..CLIENTS).map(|_| host.download_hashed(&url))).await?;
        for (status, digest) in answers {
            assert_eq!((status, digest), (200, layer.digest));
        }
        let sent = origin.sent().await? - before;
        assert!(sent < layer.size * 12 / 10, "{sent} bytes were fetched for {}", layer.size);
        let metrics = agent.metrics().await?;
        assert_eq!(metrics.sum("longshore_pull_blob_downloads_started_total"), 1);
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_is_closed_to_whoever_does_not_know_its_secret() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        let _agent = Agent::start(&host, &AgentOptions::joined(&origin.registry)).await?;
        for path in [origin.manifest_path(), origin.layer_path(0)] {
            let (status, body) = host.get(&format!("http://{MIRROR}{path}")).await?;
            assert!((400..500).contains(&status) && status != 429, "{path}: {status}");
            assert!(body.len() < 4096, "{path} gave {} bytes away", body.len());
        }
        let mut files = 0;
        for entry in std::fs::read_dir(hosts_dir(&host)).expect("certs.d").flatten() {
            let file = entry.path().join("hosts.toml");
            let mode = std::fs::metadata(&file).expect("hosts.toml").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{} can be read by others", file.display());
            files += 1;
        }
        assert!(files > 0, "a ready agent has written no hosts.toml");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_a_status_and_harm_nothing() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let options = AgentOptions::joined(&origin.registry).with("mirror.open", true);
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        let _agent = Agent::start(&host, &options).await?;
        let ns = origin.registry.authority();
        let zeros = "0".repeat(64);
        let paths = [
            format!("/v2/team/app/blobs/sha256:xyz?ns={ns}"),
            format!("/v2/team/app/blobs/sha256:{}?ns={ns}", "A".repeat(64)),
            format!("/v2/team/app/blobs/md5:{zeros}?ns={ns}"),
            format!("/v2/team/app/blobs/sha256:{zeros}?ns={ns}"),
            format!("/v2/TEAM/app/manifests/1?ns={ns}"),
            format!("/v2/team/../app/manifests/1?ns={ns}"),
            format!("/v2/team/app/manifests/{}?ns={ns}", "t".repeat(200)),
            format!("/v2/{}/manifests/1?ns={ns}", "n".repeat(10_000)),
            "/v2/team/app/manifests/1?ns=elsewhere.example".to_owned(),
            "/nothing/here".to_owned(),
        ];
        for path in paths {
            let (status, _) = host.get(&format!("http://{MIRROR}{path}")).await?;
            let refused = (400..=503).contains(&status) && status != 429 && status != 408;
            assert!(refused, "{path:.80}: {status}");
        }
        let layer = &origin.image.layers[0];
        let url = format!("http://{MIRROR}{}", origin.layer_path(0));
        assert_eq!(host.download_hashed(&url).await?, (200, layer.digest));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_served_as_containerd_asks_for_them() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let options = AgentOptions::joined(&origin.registry).with("mirror.open", true);
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        let _agent = Agent::start(&host, &options).await?;
        let layer = &origin.image.layers[0];
        let whole = std::fs::read(origin.image.blob(&layer.digest)).expect("the layer");
        let url = format!("http://{MIRROR}{}", origin.layer_path(0));
        let half = whole.len() / 2;

        let (status, body) = host.get_range(&url, &format!("bytes={half}-")).await?;
        assert_eq!(status, 206);
        assert!(body == whole[half..], "the rest of the blob is another one");
        let (status, body) = host.get_range(&url, "bytes=10-19").await?;
        assert!(status == 206 && body == whole[10..20], "{status}");
        let (status, _) = host.get_range(&url, &format!("bytes={}-", whole.len())).await?;
        assert_eq!(status, 416);
        // A range that is none is no range (RFC 9110, 14.2).
        let (status, body) = host.get_range(&url, "bytes=9-1").await?;
        assert!(matches!(status, 200 | 416), "{status}");
        assert!(status == 416 || body == whole);
        Ok(())
    })
    .await;
}
