//! The data path: where clients are sent for bytes, which this process does not see them read.
//!
//! A registry that only redirects never notices that clients cannot reach the store: so it reads a
//! byte through a URL of its own, as a client would, and keeps a breaker by what comes. While the
//! way is closed clients are sent to the other store, if the bytes are there, or get them from
//! this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use object_store::path::Path;
use tokio::time::Instant;

use super::breaker::{Breaker, Change, Policy};
use super::home::Home;
use super::side::{PROBE_KEY, Which};
use crate::storage::{Pointer, Presigned, Presigner, Segment};

/// The way of clients to one store.
#[derive(Debug)]
pub(super) struct Redirect {
    /// Of the layout.
    presigner: Presigner,
    /// Of the store's control directory.
    control: Presigner,
    /// `None`: the way is never tried, and open.
    client: Option<reqwest::Client>,
    breaker: Mutex<Breaker>,
    up: AtomicBool,
}

impl Redirect {
    /// `presigner` is the whole store's; layout and control lie in these directories of it.
    pub(super) fn new(
        presigner: &Presigner,
        [layout, control]: [&str; 2],
        policy: Policy,
        client: Option<reqwest::Client>,
    ) -> Self {
        Self {
            presigner: presigner.within(&Path::from(layout)),
            control: presigner.within(&Path::from(control)),
            client,
            breaker: Mutex::new(Breaker::new(policy, Instant::now())),
            up: true.into(),
        }
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the first byte of what the store's own probe has written.
    async fn read(&self, client: &reqwest::Client, within: Duration) -> bool {
        let segments = vec![Segment { key: PROBE_KEY.to_owned(), len: 1 }];
        let pointer = Pointer { generation: String::new(), size: 1, segments };
        let read = async {
            let signed = self.control.presign(&pointer).await?;
            let asked = client.get(signed.url).header(http::header::RANGE, "bytes=0-0").send();
            let answer = asked.await.ok()?.error_for_status().ok()?;
            answer.bytes_stream().next().await?.ok()
        };
        tokio::time::timeout(within, read).await.is_ok_and(|read| read.is_some())
    }
}

impl Home {
    /// A URL of the blob's bytes in a store that this process and clients reach.
    pub(super) async fn presigned(&self, pointer: &Pointer) -> Option<Presigned> {
        let [segment] = pointer.segments.as_slice() else { return None };
        let key = Path::from(segment.key.as_str());
        let truth = self.truth(&key);
        for which in [Which::Primary, Which::Replica] {
            let side = self.side(which);
            let Some(redirect) = &side.redirect else { continue };
            if !side.is_up() || !redirect.is_up() {
                continue;
            }
            // In the other store the bytes may not be yet.
            if which == truth || matches!(self.head(which, &key).await, Ok(Some(_))) {
                return redirect.presigner.presign(pointer).await;
            }
        }
        None
    }

    /// Whether any blob may be answered with a redirect.
    pub(super) fn redirects(&self) -> bool {
        self.primary.redirect.is_some() || self.replica.redirect.is_some()
    }

    /// Tries the way when it is time.
    pub(super) async fn probe_redirect(&self, which: Which) {
        let side = self.side(which);
        let Some(redirect) = &side.redirect else { return };
        let Some(client) = &redirect.client else { return };
        let due = redirect.breaker().probe_due(Instant::now());
        // Of a store that is away nobody is sent the URL.
        if !due || !side.is_up() {
            return;
        }
        let went_well = redirect.read(client, self.timing.record).await;
        let way = match which {
            Which::Primary => "redirect_primary",
            Which::Replica => "redirect_replica",
        };
        self.metrics.probed(way, went_well);
        let change = redirect.breaker().probed(went_well, Instant::now(), rand::random());
        if change != Change::None {
            let open = change == Change::Closed;
            redirect.up.store(open, Ordering::Release);
            self.moved();
            tracing::warn!(region = self.name, way, open, "redirects change");
        }
    }

    /// What an operator should know.
    pub(super) fn redirect_complaint(&self) -> Option<String> {
        let redirect = self.primary.redirect.as_ref()?;
        let name = &self.name;
        (!redirect.is_up()).then(|| format!("clients cannot reach the store of region {name}"))
    }
}
