//! One registry per store for the whole suite, and its end with the test's process.
//!
//! A thread of its own holds store and registry, for a test's runtime ends with the test. Statics
//! are never dropped, so a shell waits on a pipe for the end of this process, whichever way that
//! comes, and then ends what was started.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use longshore_tests::testkit::{Backend, LabError, Loopback, Origin, Result, Site};

use super::subject::Repository;

/// Reads the file of process ids, each with when it began, once the pipe has ended.
const REAPER: &str = r#"cat; while read -r id _; do kill -KILL "$id"; done < "$1"; rm -rf -- "$2""#;

/// A registry that is there until this process ends.
#[derive(Clone, Debug)]
enum Server {
    At(String),
    /// The store cannot be had on this machine.
    Unavailable(String),
    /// It was tried once: every test of the store tells why.
    Failed(String),
}

/// Runs one requirement against the registry over that store.
pub(super) async fn holds(backend: Backend, requirement: impl AsyncFnOnce(&Repository)) {
    let server = tokio::task::spawn_blocking(move || server(backend)).await.unwrap();
    match server {
        Server::At(base) => requirement(&Repository::new(&base)).await,
        // A person must see what was not tested.
        Server::Unavailable(why) => {
            let _ = writeln!(std::io::stderr(), "not tested over {backend:?}: {why}");
        }
        Server::Failed(why) => panic!("{why}"),
    }
}

fn server(backend: Backend) -> Server {
    static SERVERS: [OnceLock<Server>; Backend::ALL.len()] = [const { OnceLock::new() }; 6];
    let place = Backend::ALL.iter().position(|&known| known == backend).unwrap();
    SERVERS[place].get_or_init(|| start(backend)).clone()
}

fn start(backend: Backend) -> Server {
    let (started, base) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            match run(backend).await {
                Ok((origin, _store)) => {
                    let _ = started.send(Ok(origin.url()));
                    std::future::pending::<()>().await;
                }
                Err(failed) => drop(started.send(Err(failed))),
            }
        });
    });
    match base.recv().expect("the thread says how it went") {
        Ok(url) => Server::At(url),
        Err(LabError::Unavailable { what, why }) => Server::Unavailable(format!("{what}: {why}")),
        Err(failed) => Server::Failed(failed.to_string()),
    }
}

async fn run(backend: Backend) -> Result<(Origin, impl Sized)> {
    let loopback = Loopback::start()?;
    reap(&loopback);
    let store = backend.start(&Site::Loopback(loopback.clone())).await?;
    let origin = Origin::start(&loopback, &store).await?;
    Ok((origin, (loopback, store)))
}

/// Leaves a shell behind that ends what runs in the loopback when this process has ended.
fn reap(loopback: &Loopback) {
    static WAITING: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let shell = Command::new("sh")
        .args(["-c", REAPER, "reaper"])
        .args([loopback.directory().join("processes").as_path(), loopback.directory()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    WAITING.lock().unwrap_or_else(PoisonError::into_inner).push(shell);
}
