//! In front of other registries, against one that counts and fails as it is told, and against
//! another of our own.

mod blobs;
mod failures;
mod fake;
mod limits;
mod manifests;
mod plans;
mod pushes;
mod quota;
mod relays;
mod trust;

use http::StatusCode;
use longshore_proto::Digest;
use longshore_registry::config::UpstreamRegistry;

use self::fake::Fake;
use crate::common::TestRegistry;

/// A registry in front of `url`, under the prefix `hub` and the namespace `docker.io`.
async fn in_front_of(url: &str, more: &str) -> TestRegistry {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let one = upstream(url, more);
    TestRegistry::start_with(|config| {
        config.upstream.registry = vec![one];
        config.upstream.absent_s = 0;
    })
    .await
}

fn upstream(url: &str, more: &str) -> UpstreamRegistry {
    let text = format!("prefix = \"hub\"\nns = [\"docker.io\"]\nurl = \"{url}\"\n{more}");
    toml::from_str(&text).unwrap()
}

/// A fake, and a registry in front of it.
async fn fronted(more: &str) -> (Fake, TestRegistry) {
    let fake = Fake::start().await;
    let registry = in_front_of(&fake.url(), more).await;
    (fake, registry)
}

fn blob_path(digest: &Digest) -> String {
    format!("/v2/hub/library/web/blobs/{digest}")
}

/// Fills that ended so.
async fn fills(registry: &TestRegistry, outcome: &str) -> u64 {
    let labels = format!("upstream=\"hub\",outcome=\"{outcome}\"");
    registry.metric(&format!("longshore_registry_upstream_fills_total{{{labels}}}")).await
}

/// Whether the blob is in the repository, without asking the upstream.
async fn is_kept(registry: &TestRegistry, fake: &Fake, digest: &Digest) -> bool {
    fake.conduct(|conduct| conduct.status = Some((500, None)));
    let got = registry.get(&blob_path(digest)).await.status();
    fake.conduct(|conduct| conduct.status = None);
    got == StatusCode::OK
}
