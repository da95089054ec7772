//! What the GCS emulator serves of what `object_store` asks: too little for the registry.
//!
//! It answers a PUT without ETag and has no XML lists, deletes or conditions. So the registry says
//! at its start that it cannot use it, and nothing more about Google is tested over the wire: not
//! the lists, not the conditions, not presigned URLs, which want a service account's RSA key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use longshore_registry::config;
use longshore_tests::testkit::error::{Context as _, LabError};
use longshore_tests::testkit::wait::{Seen, until};
use longshore_tests::testkit::{Backend, Origin, Settings};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use std::time::Duration;

use crate::harness::on;

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_says_that_it_cannot_use_the_gcs_emulator() {
    on(Backend::GcsEmulator, async |stage| {
        let file = stage.loopback.directory().join("service-account.json");
        let account =
            r#"{"client_email":"","private_key":"","private_key_id":"","disable_oauth":true}"#;
        let name = || file.display().to_string();
        fs::write(&file, account).during(name)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).during(name)?;
        let endpoint = stage.store.settings().get("storage.endpoint").unwrap_or_default();
        let wrong = |failed: &dyn std::fmt::Display| LabError::Unexpected(failed.to_string());
        let config = config::Storage {
            url: "gs://longshore/some/where".parse().map_err(|failed| wrong(&failed))?,
            endpoint: Some(endpoint.to_owned()),
            allow_http: true,
            credentials_file: Some(file.clone()),
            ..Default::default()
        };
        let store = config.open().map_err(|failed| wrong(&failed))?.store;
        // It answers a PUT without the ETag that the client needs, but what was sent is right.
        let put = store.put(&Path::from("blob/x"), "content".into()).await;
        assert!(put.is_err(), "the emulator answers as Google does now: use it more");
        let sent = format!("{endpoint}/longshore/some/where/blob/x");
        let found = reqwest::get(&sent).await.map_err(|failed| wrong(&failed))?;
        assert_eq!(found.text().await.map_err(|failed| wrong(&failed))?, "content");

        let mut settings = Settings::default();
        settings.set("storage.credentials_file", name());
        let process = Origin::spawn(&stage.loopback, &stage.store, "registry", &settings, "")?;
        let status = process.wait(Duration::from_secs(60)).await?;
        assert_eq!(status.code(), Some(1), "{}", process.tail());
        until("the reason", Duration::from_secs(5), async || {
            let log = process.tail();
            let said = log.contains("storage.url: cannot use storage: gs://longshore");
            Ok(if said { Seen::Yes(()) } else { Seen::NotYet(log) })
        })
        .await
    })
    .await;
}
