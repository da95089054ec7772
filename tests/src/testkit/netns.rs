//! A network namespace of the lab and a way to do things inside it.
//!
//! Programs enter it with `nsenter` (not `ip netns exec`, which remounts /sys and breaks runc).
//! The testkit's own code enters it with a thread of its own that runs a small async runtime:
//! sockets made by futures that run there belong to the namespace. The thread ends when the value
//! is dropped; the namespace itself is removed by the lab's sweep.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::command::Run;
use super::error::{Context, LabError, Result};

/// Where iproute2 keeps named namespaces.
pub(crate) const NAMED: &str = "/run/netns";

/// A named network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    inside: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the namespace; its name must be one that the lab's sweep recognises.
    pub(crate) fn create(name: String) -> Result<Self> {
        Run::new("ip").args(["netns", "add", &name]).run()?;
        Run::new("ip").args(["-n", &name, "link", "set", "lo", "up"]).run()?;
        let path = PathBuf::from(NAMED).join(&name);
        let file = File::open(&path).during(|| path.display().to_string())?;
        let (stop, stopped) = oneshot::channel();
        let (entered, outcome) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                match enter(&file) {
                    Err(failed) => {
                        let _ = entered.send(Err(failed));
                    }
                    Ok(runtime) => {
                        let _ = entered.send(Ok(runtime.handle().clone()));
                        // Ends when the namespace is dropped: the sender goes with it.
                        let _ = runtime.block_on(stopped);
                        runtime.shutdown_background();
                    }
                }
            })
            .during(|| format!("a thread for {name}"))?;
        let inside = outcome.recv().map_err(|_| {
            LabError::Unexpected(format!("the thread of {name} ended at its start"))
        })??;
        Ok(Self { name, inside, stop: Some(stop), thread: Some(thread) })
    }

    /// The namespace's name for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The command line that runs `program` inside: `nsenter` executes it, so the pid stays.
    pub fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={NAMED}/{}", self.name)]
    }

    /// A short-lived command inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Run {
        let [nsenter, net] = self.enter();
        Run::new(nsenter).arg(net).arg("--").arg(program)
    }

    /// Runs a future on the namespace's own thread: sockets it opens are inside.
    pub async fn run<F>(&self, future: F) -> Result<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inside
            .spawn(future)
            .await
            .map_err(|failed| LabError::Unexpected(format!("inside {}: {failed}", self.name)))
    }

    /// Leaves a future running on the namespace's thread until it ends or the namespace is dropped.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inside.spawn(future)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread into the namespace and makes a runtime that stays on it.
fn enter(namespace: &File) -> Result<tokio::runtime::Runtime> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .during(|| "entering a network namespace".to_owned())?;
    Builder::new_current_thread()
        .enable_all()
        .build()
        .during(|| "a runtime inside a namespace".to_owned())
}
