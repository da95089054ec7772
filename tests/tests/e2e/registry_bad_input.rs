//! What a registry must refuse with a clear word, losing nothing.

use longshore_proto::{Algorithm, Digest};
use longshore_tests::image::push;
use longshore_tests::testkit::{Host, Rate, Registry, Result, Settings};
use reqwest::Method;

use crate::harness::{MB, Origin, in_lab};
use crate::registry::comes_back_whole;

/// The specification's limit that registries may set; ours, see the contract's errors.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Sends a request that must be refused: one of `statuses`, and OCI's error form.
async fn refused(
    client: &Host,
    (method, url): (Method, String),
    headers: &[(&'static str, &str)],
    body: Vec<u8>,
    statuses: &[u16],
) -> Result<()> {
    let (status, answer) = client.request(method.clone(), &url, headers, body).await?;
    assert!(statuses.contains(&status), "{method} {url:.120}: {status}");
    if method != Method::HEAD {
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        let code = answer["errors"][0]["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty(), "{method} {url:.120}: no OCI error in {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_digests_names_and_references_are_refused() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let url = origin.registry.url();
        let zeros = "0".repeat(64);
        let bad = [
            "team/app/blobs/sha256:xyz".to_owned(),
            "team/app/blobs/sha256".to_owned(),
            format!("team/app/blobs/sha256:{}", "A".repeat(64)),
            format!("team/app/blobs/md5:{zeros}"),
            format!("team/app/manifests/sha256:{}", &zeros[1..]),
            format!("team/app/manifests/{}", "t".repeat(129)),
            "team/app/manifests/-bad".to_owned(),
            "TEAM/app/manifests/1".to_owned(),
            format!("{}/manifests/1", "n".repeat(5000)),
        ];
        for path in bad {
            let target = format!("{url}/v2/{path}");
            refused(&client, (Method::GET, target), &[], Vec::new(), &[400, 404]).await?;
        }
        for path in [format!("team/app/blobs/sha256:{zeros}"), "team/app/manifests/nowhere".into()]
        {
            let target = format!("{url}/v2/{path}");
            refused(&client, (Method::GET, target), &[], Vec::new(), &[404]).await?;
        }
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_beyond_a_blob_are_416_and_good_ones_206() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let layer = &origin.image.layers[0];
        let whole = std::fs::read(origin.image.blob(&layer.digest)).expect("the layer");
        let blob = format!("{}{}", origin.registry.url(), origin.layer_path(0));
        let (status, body) = client.get_range(&blob, "bytes=5-14").await?;
        assert!(status == 206 && body == whole[5..15], "{status}, {} bytes", body.len());
        let (status, body) =
            client.get_range(&blob, &format!("bytes={}-", whole.len() - 7)).await?;
        assert!(status == 206 && body == whole[whole.len() - 7..], "{status}");
        let (status, _) = client.get_range(&blob, &format!("bytes={}-", whole.len())).await?;
        assert_eq!(status, 416);
        for none in ["bytes=9-1", "bytes=x-y", "lines=1-2", "bytes=18446744073709551616-"] {
            let (status, _) = client.get_range(&blob, none).await?;
            assert!(matches!(status, 200 | 400 | 416), "{none}: {status}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_pushes_are_refused_and_leave_nothing_behind() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        let client = stage.lab.host("client", Rate::UNSHAPED)?;
        let repository = format!("{}/v2/team/app", origin.registry.url());
        let manifest = format!("{repository}/manifests/bad");
        let put = |url: &str| (Method::PUT, url.to_owned());
        let typed = [("content-type", MANIFEST)];

        let huge = vec![b' '; MANIFEST_BYTES_MAX + 1];
        refused(&client, put(&manifest), &typed, huge, &[413]).await?;
        refused(&client, put(&manifest), &typed, b"{ not json".to_vec(), &[400]).await?;
        let orphan = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":2}},"layers":[]}}"#,
            "1".repeat(64)
        );
        refused(&client, put(&manifest), &typed, orphan.into_bytes(), &[400, 404]).await?;
        assert_eq!(client.get(&manifest).await?.0, 404, "a refused manifest can be pulled");

        let right = Digest::of(Algorithm::Sha256, b"right bytes");
        let upload = format!("{repository}/blobs/uploads/?digest={right}");
        let begin = (Method::POST, upload);
        refused(&client, begin, &[], b"wrong bytes".to_vec(), &[400]).await?;
        assert_eq!(client.get(&format!("{repository}/blobs/{right}")).await?.0, 404);
        let nowhere = format!("{repository}/blobs/uploads/no-such-upload?digest={right}");
        refused(&client, put(&nowhere), &[], b"right bytes".to_vec(), &[400, 404]).await?;
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_a_push_and_loses_nothing() {
    in_lab(async |stage| {
        let host = stage.lab.host("registry", Rate::UNSHAPED)?;
        let disk = host.small_disk("disk", 24 * MB)?;
        let mut settings = Settings::default();
        settings.set("storage.url", format!("file://{}", disk.join("registry").display()));
        let registry = Registry::start_with(&host, &settings).await?;
        let reference = format!("{}/team/app:1", registry.authority());
        let image = stage.image(13, &[3 * MB, MB]).await?;
        push(&host, &image, &reference).await?;

        let large = stage.image(15, &[40 * MB]).await?;
        let refused = push(&host, &large, &format!("{}/team/large:1", registry.authority())).await;
        assert!(refused.is_err(), "40 MB went onto a disk of 24 MB");
        registry.process().check_alive()?;
        let small = stage.image(6, &[MB]).await?;
        push(&host, &small, &format!("{}/team/small:1", registry.authority())).await?;
        let origin = Origin { registry, image, reference };
        comes_back_whole(&origin, &stage.lab.directory().join("copy")).await
    })
    .await;
}
