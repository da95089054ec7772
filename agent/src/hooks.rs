//! Hooks that only test builds have (feature `test-hooks`).

use tokio::signal::unix::{SignalKind, signal};

/// Blocks every worker of the runtime for ever at SIGUSR2, as a deadlock or an endless loop of
/// ours would.
pub(crate) fn wedge_at_sigusr2() -> std::io::Result<()> {
    let mut wedge = signal(SignalKind::user_defined2())?;
    tokio::spawn(async move {
        if wedge.recv().await.is_none() {
            return;
        }
        // More than there are workers: each takes one and never comes back.
        for _ in 0..2 * tokio::runtime::Handle::current().metrics().num_workers() {
            tokio::spawn(async {
                loop {
                    std::thread::park();
                }
            });
        }
    });
    Ok(())
}
