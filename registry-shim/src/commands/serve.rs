//! `longshore-registry serve`: the registry itself, until a signal.

use clap::{ArgMatches, Command};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::config::Config;
use crate::notify::Notify;
use crate::{Instance, shutdown};

/// `serve`
pub fn command() -> Command {
    Command::new("serve").about("Serve the registry (the default)")
}

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(_matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let instance = Instance::start(config).await?;
    tracing::info!(
        address = %instance.address(),
        admin = %instance.admin_address(),
        key = %instance.public_key(),
        "serving"
    );
    let (token, manager) = (CancellationToken::new(), Notify::from_environment());
    manager.ready();
    let told = async {
        token.cancelled().await;
        manager.stopping();
    };
    let run = async {
        instance.run(token.clone()).await;
        token.cancel();
    };
    let (signalled, (), ()) = tokio::join!(shutdown::on_signal(token.clone()), run, told);
    signalled.map_err(|error| Failure::new(format!("signals: {error}")))
}
