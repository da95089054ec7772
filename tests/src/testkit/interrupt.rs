//! Ctrl-C and termination: the labs of this process are removed before it ends.
//!
//! Owns the list of living labs and one thread that waits for a signal. The thread lives as long
//! as the process; it holds nothing.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use super::error::{Context, Result};
use super::name::LabName;
use super::sweep;

/// What a shell shows for a program ended by Ctrl-C.
const EXIT_INTERRUPTED: i32 = 130;

static LIVING: Mutex<BTreeSet<LabName>> = Mutex::new(BTreeSet::new());
static WATCHER: OnceLock<()> = OnceLock::new();

/// From now on a signal removes this lab too.
pub(crate) fn register(lab: LabName) -> Result<()> {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner).insert(lab);
    if WATCHER.set(()).is_err() {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(watch)
        .during(|| "a thread for signals".to_owned())?;
    Ok(())
}

/// The lab is removed.
pub(crate) fn forget(lab: &LabName) {
    LIVING.lock().unwrap_or_else(PoisonError::into_inner).remove(lab);
}

fn watch() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let mut signals = Vec::new();
        for kind in kinds {
            let Ok(stream) = signal(kind) else { return };
            signals.push(stream);
        }
        let waits = signals.iter_mut().map(|stream| Box::pin(stream.recv()));
        futures::future::select_all(waits).await;
    });
    // Kept locked: no lab starts any more.
    let labs = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
    for lab in labs.iter() {
        sweep::remove(lab);
    }
    std::process::exit(EXIT_INTERRUPTED);
}
