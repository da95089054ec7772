//! Membership: joining the origin, and staying joined.
//!
//! Owns the session. A worker joins, joins anew at half of the session's life, and after a
//! failure waits longer each time, with jitter; a call that needs a session wakes it. The secret
//! of a session or a token is never printed. The origin's word on its own keys is not believed:
//! keys come from the configuration.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use longshore_proto::SWARM_VERSION;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::rpc::origin::membership_client::MembershipClient;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::client::origin_error;
use super::{OriginError, OriginMetrics};

const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// Between two attempts, however many calls wake the worker.
const ATTEMPT_GAP: Duration = Duration::from_millis(200);
/// How long a call waits for a join that is under way.
const JOIN_WAIT: Duration = Duration::from_secs(2);
/// Bounds of what the origin may say about a session's life.
const SESSION_LIFE: std::ops::RangeInclusive<u64> = 10..=86_400;
/// A token is a word, not a document.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What a join says of this node.
#[derive(Clone, Debug)]
pub struct JoinAs {
    /// `node.name`
    pub node_name: String,
    /// `node.pool`
    pub pool: String,
    /// `node.zone`
    pub zone: String,
    /// libp2p's protobuf encoding of the node's public key.
    pub public_key: Vec<u8>,
    /// First line is the token; empty joins anonymously.
    pub token_file: Option<PathBuf>,
}

/// A session that the origin gave.
#[derive(Clone)]
pub struct Session {
    header: MetadataValue<Ascii>,
    expires: Instant,
}

/// How the membership stands.
#[derive(Clone, Debug)]
pub enum Membership {
    /// No attempt has ended yet.
    Joining,
    /// A member.
    Joined(Session),
    /// Not a member; the last attempt's error.
    Apart(String),
}

/// Joins and remembers.
#[derive(Debug)]
pub struct Sessions {
    client: MembershipClient<Channel>,
    join: JoinAs,
    addresses: Mutex<Vec<String>>,
    state: watch::Sender<Membership>,
    attempts: watch::Sender<u64>,
    wanted: Notify,
    metrics: OriginMetrics,
}

impl Session {
    pub(super) fn header(&self) -> MetadataValue<Ascii> {
        self.header.clone()
    }

    /// Until it expires.
    pub fn expires_in(&self) -> Duration {
        self.expires.saturating_duration_since(Instant::now())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("expires_in", &self.expires_in()).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(channel: Channel, join: JoinAs, metrics: OriginMetrics) -> Self {
        Self {
            client: MembershipClient::new(channel),
            join,
            addresses: Mutex::default(),
            state: watch::Sender::new(Membership::Joining),
            attempts: watch::Sender::new(0),
            wanted: Notify::new(),
            metrics,
        }
    }

    /// Where peers reach this node, as multiaddrs: told at the next join.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().expect("nothing panics while it holds the addresses") = addresses;
    }

    /// How the membership stands now.
    pub fn membership(&self) -> Membership {
        self.state.borrow().clone()
    }

    /// Wakes whenever that changes.
    pub fn changes(&self) -> watch::Receiver<Membership> {
        self.state.subscribe()
    }

    /// A session that has not expired; waits for one attempt where there is none.
    pub(super) async fn current(&self) -> Result<Session, OriginError> {
        if let Some(session) = self.valid() {
            return Ok(session);
        }
        let mut attempts = self.attempts.subscribe();
        attempts.mark_unchanged();
        self.wanted.notify_one();
        let _ended_or_late = tokio::time::timeout(JOIN_WAIT, attempts.changed()).await;
        self.valid().ok_or_else(|| {
            OriginError::Unavailable(match self.membership() {
                Membership::Apart(error) => format!("not joined: {error}"),
                _ => "not joined yet".into(),
            })
        })
    }

    /// The origin does not know this session: the next call waits for another.
    pub(super) fn refused(&self, session: &Session) {
        let same = |now: &Membership| matches!(now, Membership::Joined(joined) if joined.header == session.header);
        self.state.send_if_modified(|now| {
            let ended = same(now);
            if ended {
                *now = Membership::Apart("the origin does not know the session".into());
            }
            ended
        });
        self.wanted.notify_one();
    }

    /// The worker.
    pub(super) async fn keep(&self, shutdown: CancellationToken) {
        let mut retry = RETRY_FIRST;
        loop {
            let wait = tokio::select! {
                () = shutdown.cancelled() => return,
                wait = self.attempt(&mut retry) => wait,
            };
            self.attempts.send_modify(|count| *count += 1);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(ATTEMPT_GAP) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.wanted_in_vain() => {}
            }
        }
    }

    /// A call wants a session and there is none that is valid.
    async fn wanted_in_vain(&self) {
        loop {
            self.wanted.notified().await;
            if self.valid().is_none() {
                return;
            }
        }
    }

    /// Joins once; says how long to wait before the next time.
    async fn attempt(&self, retry: &mut Duration) -> Duration {
        match self.join().await {
            Ok((session, life)) => {
                *retry = RETRY_FIRST;
                self.metrics.joins.inc();
                tracing::info!(session_s = life.as_secs(), "joined the origin");
                self.state.send_replace(Membership::Joined(session));
                jittered(life / 2)
            }
            Err(error) => {
                self.metrics.join_failures.inc();
                self.not_joined(error.to_string());
                let wait = jittered(*retry);
                *retry = (*retry * 2).min(RETRY_LONGEST);
                wait
            }
        }
    }

    /// Notes a failed attempt; a session that still lives goes on.
    fn not_joined(&self, error: String) {
        let news = !matches!(&*self.state.borrow(), Membership::Apart(known) if *known == error);
        if news {
            tracing::warn!(error, "cannot join the origin");
        }
        if self.valid().is_none() {
            self.state.send_replace(Membership::Apart(error));
        }
    }

    async fn join(&self) -> Result<(Session, Duration), OriginError> {
        let request = rpc::JoinRequest {
            credential: Some(rpc::Credential { kind: Some(self.credential().await?) }),
            public_key: self.join.public_key.clone().into(),
            csr_der: Default::default(),
            pool: self.join.pool.clone(),
            zone: self.join.zone.clone(),
            node_name: self.join.node_name.clone(),
            addresses: self.addresses.lock().expect("nothing panics while it holds it").clone(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            swarm_version: SWARM_VERSION,
        };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(JOIN_TIMEOUT, client.join(request))
            .await
            .map_err(|_| OriginError::Unavailable("no answer to the join in time".into()))?
            .map_err(|status| origin_error(&status))?
            .into_inner();
        let header = format!("Bearer {}", answer.session).parse();
        let mut header: MetadataValue<Ascii> =
            header.map_err(|_| OriginError::Invalid("session is no header value".into()))?;
        header.set_sensitive(true);
        let (shortest, longest) = SESSION_LIFE.into_inner();
        let life = u64::from(answer.session_seconds).clamp(shortest, longest);
        let life = Duration::from_secs(life);
        Ok((Session { header, expires: Instant::now() + life }, life))
    }

    async fn credential(&self) -> Result<rpc::credential::Kind, OriginError> {
        let Some(path) = &self.join.token_file else {
            return Ok(rpc::credential::Kind::Anonymous(rpc::Anonymous {}));
        };
        read_token(path).await.map(rpc::credential::Kind::Token)
    }

    fn valid(&self) -> Option<Session> {
        match &*self.state.borrow() {
            Membership::Joined(session) if !session.expires_in().is_zero() => Some(session.clone()),
            _ => None,
        }
    }
}

/// The first line of a token file; read at each join, so that it can be renewed in place.
async fn read_token(path: &std::path::Path) -> Result<String, OriginError> {
    let bad =
        |why: &str| OriginError::Denied(format!("origin.token_file: {}: {why}", path.display()));
    let text = tokio::fs::read(path).await.map_err(|error| bad(&error.to_string()))?;
    if text.len() > TOKEN_BYTES_MAX {
        return Err(bad("too long for a token"));
    }
    let text = String::from_utf8(text).map_err(|_| bad("not UTF-8"))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("no token in the first line"));
    }
    Ok(token.to_owned())
}

/// Between half of `wait` and `wait`, so that a fleet does not call in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..1.0))
}
