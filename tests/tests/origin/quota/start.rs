//! Where no quota can be exact the registry does not start.

use std::time::Duration;

use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Origin};

use super::limit;
use crate::harness::on;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_overwrites_is_refused_for_quotas_in_one_line() {
    on(Backend::Garage, async |stage| {
        let (place, store) = (&stage.loopback, &stage.store);
        let process = Origin::spawn(place, store, "registry", &limit(1000), "")?;
        let status = process.wait(Duration::from_secs(60)).await?;
        assert_eq!(status.code(), Some(64), "{}", process.tail());
        let said = "quota.projects: s3://longshore overwrites where it should refuse: \
                    no quota is exact there";
        let log = until("the reason", Duration::from_secs(5), async || {
            let log = process.tail();
            Ok(if log.contains(said) { Seen::Yes(log) } else { Seen::NotYet(log) })
        })
        .await?;
        assert_eq!(log.lines().filter(|line| line.contains("quota")).count(), 1, "{log}");
        // Without a quota it serves there.
        Origin::start(place, store).await?.stop().await?;
        Ok(())
    })
    .await;
}
