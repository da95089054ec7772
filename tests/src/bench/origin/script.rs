//! A node start as the generator's requests.

use std::net::SocketAddr;

use super::images::SmallImage;
use crate::load::{Kind, Script, Step};

/// What containerd sends with a manifest's GET.
const ACCEPT: &str = "Accept: application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
const AGENT: &str = "User-Agent: containerd/1.7.24";

/// How layers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layers {
    /// GET, answered with a redirect to the store.
    Redirected,
    /// HEAD: the registry would send the bytes itself.
    Head,
}

/// The requests of one node start; `token` is the path and the header of the first one.
pub(super) fn node_start(
    address: SocketAddr,
    images: &[SmallImage],
    layers: Layers,
    token: Option<(&str, &str)>,
) -> Script {
    let host = address.to_string();
    let mut steps = Vec::new();
    if let Some((path, authorization)) = token {
        steps.push(Step::new(Kind::Token, "GET", path, &host, &[AGENT, authorization], 200));
    }
    let get =
        |kind, path: &str, status| Step::new(kind, "GET", path, &host, &[AGENT, ACCEPT], status);
    for image in images {
        let repository = format!("/v2/{}", image.repository);
        steps.push(get(Kind::Tag, &format!("{repository}/manifests/{}", image.tag), 200));
        steps.push(get(Kind::Manifest, &format!("{repository}/manifests/{}", image.digest), 200));
        for layer in image.layers() {
            let path = format!("{repository}/blobs/{layer}");
            steps.push(match layers {
                Layers::Redirected => get(Kind::Layer, &path, 307),
                Layers::Head => Step::new(Kind::Layer, "HEAD", &path, &host, &[AGENT], 200),
            });
        }
    }
    Script { steps }
}
