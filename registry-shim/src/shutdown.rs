//! SIGTERM and SIGINT as one token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Waits for either signal, then cancels the token.
///
/// # Errors
/// When a handler cannot be installed.
pub async fn on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        () = shutdown.cancelled() => {}
    }
    shutdown.cancel();
    Ok(())
}
