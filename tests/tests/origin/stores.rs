//! The stores themselves: that each starts and is told apart by what it does.

use longshore_tests::testkit::object_servers::{BUCKET, Kind, ObjectServer};
use longshore_tests::testkit::{Backend, Loopback, Origin, Result, Site};

use crate::harness::on;

async fn serves_over(backend: Backend) {
    on(backend, async |stage| {
        let origin = Origin::start(&stage.loopback, &stage.store).await?;
        let answer = reqwest::get(format!("{}/v2/", origin.url())).await;
        assert_eq!(answer.map(|answer| answer.status().as_u16()).ok(), Some(200));
        origin.stop().await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_over_a_directory() {
    serves_over(Backend::Directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_over_memory() {
    serves_over(Backend::Memory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_over_garage() {
    serves_over(Backend::Garage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_over_moto() {
    serves_over(Backend::Moto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_over_azurite() {
    serves_over(Backend::Azurite).await;
}

/// Two servers beside each other use ports and directories of their own.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_run_beside_each_other_and_end_with_their_site() -> Result<()> {
    let mut ended = Vec::new();
    for kind in [Kind::Garage, Kind::Moto] {
        let sites = [Loopback::start()?, Loopback::start()?].map(Site::Loopback);
        let first = ObjectServer::start(&sites[0], kind).await?;
        let second = ObjectServer::start(&sites[1], kind).await?;
        assert_ne!(first.endpoint(), second.endpoint());
        for server in [&first, &second] {
            let url = format!("{}/{BUCKET}", server.endpoint());
            let status = reqwest::get(url).await.map(|answer| answer.status().as_u16()).ok();
            // moto lets anyone in; Garage asks for a signature.
            let expected = if kind == Kind::Garage { 403 } else { 200 };
            assert_eq!(status, Some(expected), "{kind:?}");
        }
        ended.extend([first.endpoint().to_owned(), second.endpoint().to_owned()]);
        let directory = sites[0].directory().to_owned();
        drop((first, second, sites));
        assert!(!directory.exists(), "{} stays", directory.display());
    }
    for endpoint in ended {
        assert!(reqwest::get(&endpoint).await.is_err(), "{endpoint} still answers");
    }
    Ok(())
}
