//! `longshore-registry` on an S3 server, with users, tokens and redirects.

use std::fs;
use std::time::Duration;

use super::images::{SmallImage, Target};
use super::options::Options;
use super::script::{Layers, node_start};
use super::{Measured, cold, known, plans, report, warm};
use crate::load::Outcome;
use crate::testkit::backend::Store;
use crate::testkit::command::Run;
use crate::testkit::error::{Context, Result};
use crate::testkit::loopback::Loopback;
use crate::testkit::object_servers::Site;
use crate::testkit::origin::Origin;
use crate::testkit::programs::own_binary;
use crate::testkit::settings::Settings;

/// Made up for this run.
const USER: &str = "node";
const PASSWORD: &str = "only-for-this-benchmark";
/// Plans are counted so long.
const PLANS: Duration = Duration::from_secs(5);

/// What Longshore did.
#[derive(Debug)]
pub(super) struct Ours {
    /// A new process: everything is read from the store.
    pub(super) cold: Outcome,
    /// The same process after that.
    pub(super) warm: Measured,
    pub(super) plans_per_minute: f64,
    pub(super) ready_ms: f64,
    pub(super) rss_bytes: u64,
}

pub(super) async fn measure(
    loopback: &Loopback,
    options: &Options,
    images: &[SmallImage],
) -> Result<Ours> {
    let store = options.backend().start(&Site::Loopback(loopback.clone())).await?;
    let settings = settings(loopback)?;
    report::say("pushes the images");
    let origin = start(loopback, &store, &settings).await?;
    target(&origin).push(images).await?;
    origin.stop().await?;

    report::say("serves node starts, cold and warm");
    let origin = start(loopback, &store, &settings).await?;
    let address = origin.address();
    let path = token_path(images);
    let basic = basic();
    let token = Some((path.as_str(), basic.as_str()));
    let script = node_start(address, images, Layers::Redirected, token);
    let cold = cold(options, address, &script).await?;
    let warm = warm(options, address, origin.process().pid(), &script).await?;
    report::say("plans node starts");
    let plans_per_minute = plans::per_minute(&origin.url(), images, PLANS).await?;

    report::say(&format!("pushes {} images more", options.known));
    let many = known::push(&target(&origin), options, &images[0]).await?;
    origin.stop().await?;
    let ready_ms = known::ready_ms(loopback, &store, &settings).await?;
    report::say("gets each of them once");
    let origin = start(loopback, &store, &settings).await?;
    let rss_bytes = known::rss_bytes(&origin, &target(&origin), &many).await?;
    origin.stop().await?;
    Ok(Ours { cold, warm, plans_per_minute, ready_ms, rss_bytes })
}

async fn start(loopback: &Loopback, store: &Store, settings: &Settings) -> Result<Origin> {
    Origin::start_with(loopback, store, "registry", settings).await
}

/// One user, who may do everything, and tokens for whoever asks for some.
fn settings(loopback: &Loopback) -> Result<Settings> {
    let users = loopback.directory().join("users");
    let registry = own_binary("longshore-registry")?;
    let run = Run::new(registry).args(["users", "add", USER, "--file"]).arg(&users);
    run.stdin(format!("{PASSWORD}\n")).run()?;
    fs::metadata(&users).during(|| users.display().to_string())?;
    let tokens = loopback.directory().join("join-tokens");
    fs::write(&tokens, plans::JOIN_TOKEN).during(|| tokens.display().to_string())?;
    let mut settings = Settings::default();
    settings.set("join.token_file", tokens.display());
    settings.set("auth.users_file", users.display()).set("storage.redirect", true);
    Ok(settings)
}

fn target(origin: &Origin) -> Target {
    let basic = Some((USER.to_owned(), PASSWORD.to_owned()));
    Target { client: reqwest::Client::new(), url: origin.url(), basic }
}

fn basic() -> String {
    use base64::Engine as _;
    let text = format!("{USER}:{PASSWORD}");
    format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

/// One token for all images of the node.
fn token_path(images: &[SmallImage]) -> String {
    let mut path = "/token?service=longshore".to_owned();
    for image in images {
        path.push_str(&format!("&scope=repository:{}:pull", image.repository));
    }
    path
}
