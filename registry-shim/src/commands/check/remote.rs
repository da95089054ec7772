//! What is asked over a network: stores, fronted registries, identity providers, the collector of
//! traces. All at once, and nothing for longer than [`PATIENCE`].

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use longshore_proto::sign::SigningKey;

use super::Row;
use crate::config::Config;
use crate::config::auth::Issuer;
use crate::config::{Region, UpstreamRegistry};
use crate::{StartError, auth, upstream};

/// For any of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lines of everything that is asked, in the order of the configuration's template.
pub(super) async fn rows(config: &Config) -> Vec<Row> {
    let mut asked: Vec<BoxFuture<'_, Vec<Row>>> = Vec::new();
    match config.regions.check() {
        Err(error) => return vec![Row::fail("regions", format!("regions.region: {error}"))],
        Ok(()) if config.regions.region.is_empty() => asked.push(Box::pin(store("", config))),
        Ok(()) => {
            for region in &config.regions.region {
                asked.push(Box::pin(region_store(config, region)));
            }
        }
    }
    if let Err(error) = upstream::check_names(&config.upstream) {
        asked.push(Box::pin(std::future::ready(vec![Row::fail("upstreams", error)])));
    }
    for registry in &config.upstream.registry {
        asked.push(Box::pin(async { vec![fronted(registry).await] }));
    }
    for issuer in &config.auth.issuer {
        asked.push(Box::pin(async { vec![identities(issuer).await] }));
    }
    asked.push(Box::pin(async { vec![collector(config).await] }));
    join_all(asked).await.concat()
}

/// A region's store as if it were the only one.
async fn region_store(config: &Config, region: &Region) -> Vec<Row> {
    let mut alone = config.clone();
    let patterns = std::mem::take(&mut alone.storage.immutable_tags);
    alone.storage = region.storage.clone();
    alone.storage.immutable_tags = patterns;
    store(&format!(" {}", region.name), &alone).await
}

/// `region` is empty, or a name behind a space.
async fn store(region: &str, config: &Config) -> Vec<Row> {
    let name = format!("storage{region}");
    let opened = async {
        // The key signs nothing here: a store can be tried before there is one.
        let key = Arc::new(SigningKey::generate().0);
        let opened = config.storage.open().map_err(StartError::from)?;
        crate::open_storage(config, opened, key).await
    };
    let storage = match tokio::time::timeout(PATIENCE, opened).await {
        Ok(Ok(storage)) => storage,
        Ok(Err(error)) => return vec![Row::fail(name, error)],
        Err(_) => return vec![late(name)],
    };
    let probed = match tokio::time::timeout(PATIENCE, storage.probe()).await {
        Ok(Ok(())) => Row::ok(name, "can be written and read"),
        Ok(Err(error)) => Row::fail(name, error),
        Err(_) => late(name),
    };
    let name = format!("conditional writes{region}");
    let conditional = if storage.capabilities().conditional_create {
        Row::ok(name, "honoured")
    } else {
        let detail = "ignored: what needs them is refused, the rest takes the safe way around";
        Row::warn(name, detail)
    };
    vec![probed, conditional]
}

async fn fronted(registry: &UpstreamRegistry) -> Row {
    let name = format!("upstream {}", registry.prefix);
    match tokio::time::timeout(PATIENCE, upstream::try_out(registry)).await {
        Ok(Ok(detail)) => Row::ok(name, detail),
        Ok(Err(error)) => Row::fail(name, error),
        Err(_) => late(name),
    }
}

async fn identities(issuer: &Issuer) -> Row {
    let name = format!("issuer {}", issuer.name);
    match tokio::time::timeout(PATIENCE, auth::try_issuer(issuer)).await {
        Ok(Ok(keys)) => Row::ok(name, format!("{keys} public keys")),
        Ok(Err(error)) => Row::fail(name, error),
        Err(_) => late(name),
    }
}

async fn collector(config: &Config) -> Row {
    const NAME: &str = "telemetry";
    let Some(endpoint) = &config.telemetry.otlp_endpoint else { return Row::ok(NAME, "off") };
    let authority = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.into_parts().authority);
    let Some(authority) = authority else { return Row::fail(NAME, "no address") };
    let address = (authority.host().to_owned(), authority.port_u16().unwrap_or(80));
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Row::ok(NAME, authority),
        // Traces are lost, and nothing else.
        Ok(Err(error)) => Row::warn(NAME, format!("{authority}: {error}")),
        Err(_) => Row::warn(NAME, format!("{authority}: no answer in time")),
    }
}

fn late(name: String) -> Row {
    Row::fail(name, "no answer in time")
}
