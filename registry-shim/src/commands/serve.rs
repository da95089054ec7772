//! `longshore-registry serve`: the registry itself, until a signal.

use clap::{ArgMatches, Command};

use super::Failure;
use crate::Instance;
use crate::config::Config;
use crate::notify::Notify;
use crate::serve::Ends;
use crate::shutdown::Signals;

/// `serve`
pub fn command() -> Command {
    Command::new("serve").about("Serve the registry (the default)")
}

/// Serves until SIGTERM or SIGINT, then drains; a second one cuts the drain short.
pub async fn run(_matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let signals = Signals::install().map_err(|error| Failure::new(format!("signals: {error}")))?;
    let instance = Instance::start(config).await?;
    tracing::info!(
        address = %instance.address(),
        admin = %instance.admin_address(),
        key = %instance.public_key(),
        "serving"
    );
    let (ends, reload, manager) = (Ends::default(), instance.reload(), Notify::from_environment());
    manager.ready();
    let told = async {
        ends.drain.cancelled().await;
        manager.stopping();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = instance.run_until(ends.clone()) => {}
        () = signals.answer(&reload, &ends) => {}
        () = told => {}
    }
    Ok(())
}
