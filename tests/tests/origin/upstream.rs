//! The registry in front of Debian's docker-registry: what users have, with its own ways.

use std::fs;
use std::net::SocketAddr;

use longshore_proto::{Algorithm, Digest, media_type};
use longshore_tests::testkit::command::Run;
use longshore_tests::testkit::error::Context as _;
use longshore_tests::testkit::{
    Backend, Guard, LabError, LocalDockerRegistry, Origin, Result, Settings,
};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::client::{Client, header, lost};
use crate::harness::{Stage, on};
use crate::layout::{IMAGE_CONFIG, Layout, layer};

/// `hunter2`, at bcrypt's least cost.
const HTPASSWD: &str = "me:$2b$04$gGNDEeAatxa3pLK/u3g1AetEhqUteuu8PxHPFKW4aU5tmbY5/nb7S\n";
const PASSWORD: &str = "hunter2";

/// A registry in front of `url`, on a store of its own of that name.
async fn in_front_of(stage: &Stage, url: &str, name: &str, more: &str) -> Result<Origin> {
    let mut settings = Settings::default();
    let store = stage.loopback.directory().join(format!("{name}-store"));
    settings.set("storage.url", format!("file://{}", store.display()));
    let file = format!("[[upstream.registry]]\nprefix = \"hub\"\nurl = \"{url}\"\n{more}");
    Origin::start_from(&stage.loopback, &stage.store, name, &settings, &file).await
}

async fn copy(from: &str, to: &str) -> Result<()> {
    let clear = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    let run = Run::new("skopeo").args(["copy", "--all", "--preserve-digests"]).args(clear);
    run.args([from, to]).run_async().await.map(drop)
}

fn docker(address: SocketAddr, name: &str) -> String {
    format!("docker://{address}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_comes_through_docker_registry_and_outlives_it() {
    on(Backend::Directory, async |stage| {
        let directory = stage.loopback.directory();
        let (layout, pulled) = (Layout::write(directory.join("pushed"))?, directory.join("pulled"));
        let upstream = LocalDockerRegistry::start(&stage.loopback, &Guard::default()).await?;
        copy(&layout.name(), &docker(upstream.address(), "team/app:v1")).await?;

        let origin = in_front_of(stage, &upstream.url(), "front", "").await?;
        let here = docker(origin.address(), "hub/team/app:v1");
        copy(&here, &format!("oci:{}", pulled.display())).await?;
        layout.assert_pulled(&pulled)?;

        let client = Client::new(&origin)?;
        let tags = client.get("/v2/hub/team/app/tags/list").await?;
        let tags: Value = tags.json().await.map_err(|error| lost(&error))?;
        assert_eq!(tags, json!({ "name": "hub/team/app", "tags": ["v1"] }));
        // It knows no referrers: here that is an empty list.
        let referrers = format!("/v2/hub/team/app/referrers/{}", layout.index);
        let referrers = client.get(&referrers).await?;
        assert_eq!(referrers.status(), 200);
        assert_eq!(header(&referrers, "content-type")?, media_type::OCI_INDEX);
        let list: Value = referrers.json().await.map_err(|error| lost(&error))?;
        assert_eq!(list["manifests"], json!([]));
        assert_eq!(client.get("/v2/hub/team/app/manifests/v2").await?.status(), 404);

        let reads = origin.metrics().await?.sum("longshore_registry_upstream_blob_reads_total");
        assert_eq!(reads, layout.blobs.len() as u64);
        upstream.kill().await?;
        layout.assert_at(&client, "/v2/hub/team/app").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_through_the_registry_is_at_docker_registry() {
    on(Backend::Directory, async |stage| {
        let layout = Layout::write(stage.loopback.directory().join("pushed"))?;
        let upstream = LocalDockerRegistry::start(&stage.loopback, &Guard::default()).await?;
        let origin = in_front_of(stage, &upstream.url(), "front", "push = \"pass\"\n").await?;
        copy(&layout.name(), &docker(origin.address(), "hub/team/app:v1")).await?;

        let (here, there) = (Client::new(&origin)?, Client::of(upstream.url())?);
        layout.assert_at(&there, "/v2/team/app").await?;
        let tagged = there.request(Method::HEAD, "/v2/team/app/manifests/v1");
        let tagged = tagged.header(ACCEPT, media_type::OCI_INDEX).send().await;
        let tagged = tagged.map_err(|error| lost(&error))?;
        assert_eq!(header(&tagged, "docker-content-digest")?, layout.index.to_string());
        // In chunks, the last one with the closing request.
        let (first, second) = (layer(2_000_000, 7), layer(1_000_001, 8));
        let chunked = here.push_blob("hub/team/app", &[&first, &second, b"end"]).await?;
        let got = there.get(&format!("/v2/team/app/blobs/{chunked}")).await?;
        let got = got.bytes().await.map_err(|error| lost(&error))?;
        assert_eq!(Digest::of(Algorithm::Sha256, &got), chunked);
        // All that came in chunks went on as it came.
        let relays = "longshore_registry_upstream_relays_total";
        let metrics = origin.metrics().await?;
        let passed_on = metrics.sum_with(relays, "outcome", "ok");
        assert!(passed_on >= 2 && passed_on == metrics.sum(relays), "{passed_on} of all");
        // What it refuses, its client is told: a manifest of blobs that it does not have.
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
            "config": { "mediaType": IMAGE_CONFIG, "size": 1, "digest": Digest::of(Algorithm::Sha256, b"x").to_string() },
        });
        let put = here.request(Method::PUT, "/v2/hub/team/app/manifests/v2");
        let put = put.header(CONTENT_TYPE, media_type::OCI_MANIFEST).body(manifest.to_string());
        let refused = put.send().await.map_err(|error| lost(&error))?;
        assert!(refused.status().is_client_error(), "{refused:?}");
        assert_eq!(here.get("/v2/hub/team/app/manifests/v2").await?.status(), 404);

        upstream.kill().await?;
        layout.assert_at(&here, "/v2/hub/team/app").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_may_want_a_password_and_show_a_private_certificate() {
    on(Backend::Directory, async |stage| {
        let directory = stage.loopback.directory();
        let layout = Layout::write(directory.join("pushed"))?;
        let put = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).during(|| path.display().to_string())?;
            Ok::<_, LabError>(path.display().to_string())
        };
        let (authority, certificate, key) = certificate();
        let tls = Some((certificate, key));
        let guard = Guard { htpasswd: Some(HTPASSWD.to_owned()), tls };
        let upstream = LocalDockerRegistry::start(&stage.loopback, &guard).await?;
        let trust = format!("ca_file = \"{}\"\n", put("ca.pem", &authority)?);
        let password = |path: String| format!("username = \"me\"\npassword_file = \"{path}\"\n");
        let (right, wrong) = (put("password", PASSWORD)?, put("wrong", "not it")?);

        let pass = format!("push = \"pass\"\n{trust}{}", password(right));
        let origin = in_front_of(stage, &upstream.url(), "front", &pass).await?;
        copy(&layout.name(), &docker(origin.address(), "hub/team/app:v1")).await?;
        origin.stop().await?;
        // Another one that has nothing yet.
        let cold = in_front_of(stage, &upstream.url(), "cold", &pass).await?;
        layout.assert_at(&Client::new(&cold)?, "/v2/hub/team/app").await?;
        cold.stop().await?;

        for (name, more, status) in [
            ("stranger", trust.clone(), 403),
            ("liar", trust + &password(wrong), 403),
            ("trusts-nobody", String::new(), 502),
        ] {
            let origin = in_front_of(stage, &upstream.url(), name, &more).await?;
            let got = Client::new(&origin)?.get("/v2/hub/team/app/manifests/v1").await?;
            assert_eq!(got.status(), status, "{name}");
            let log = fs::read_to_string(origin.process().log()).unwrap_or_default();
            assert!(!log.contains(PASSWORD) && !log.contains("not it"), "{name}: {log}");
        }
        Ok(())
    })
    .await;
}

/// An authority's certificate, and one that it issued for the loopback with its key; all PEM.
fn certificate() -> (String, String, String) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let key = rcgen::KeyPair::generate().expect("a key");
    let issued = params.signed_by(&key, &authority).expect("a certificate");
    (authority.pem(), issued.pem(), key.serialize_pem())
}
