//! The client against an origin that forgets, refuses and is away.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_proto::rpc::origin::membership_server::{Membership as Joining, MembershipServer};
use longshore_proto::rpc::origin::tracker_server::{Tracker, TrackerServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

/// Gives sessions `s1`, `s2`, … and knows the latest only.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<State>);

#[derive(Debug, Default)]
struct State {
    joins: AtomicU64,
    joined_as: Mutex<Option<rpc::JoinRequest>>,
    refuses_joins: std::sync::atomic::AtomicBool,
}

impl Fake {
    fn session(&self) -> String {
        format!("s{}", self.0.joins.load(Ordering::Relaxed))
    }

    /// As a restart with other keys would.
    fn forget(&self) {
        self.0.joins.fetch_add(100, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Joining for Fake {
    async fn join(
        &self,
        request: Request<rpc::JoinRequest>,
    ) -> Result<Response<rpc::JoinResponse>, Status> {
        if self.0.refuses_joins.load(Ordering::Relaxed) {
            return Err(Status::permission_denied("no such token"));
        }
        *self.0.joined_as.lock().unwrap() = Some(request.into_inner());
        self.0.joins.fetch_add(1, Ordering::Relaxed);
        let session = self.session();
        Ok(Response::new(rpc::JoinResponse { session, session_seconds: 600, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl Tracker for Fake {
    async fn announce(
        &self,
        request: Request<rpc::AnnounceRequest>,
    ) -> Result<Response<rpc::AnnounceResponse>, Status> {
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if given != Some(&format!("Bearer {}", self.session())) {
            return Err(Status::unauthenticated("unknown session"));
        }
        Ok(Response::new(rpc::AnnounceResponse { policy_epoch: 7, ..Default::default() }))
    }

    async fn permit(
        &self,
        _: Request<rpc::PermitRequest>,
    ) -> Result<Response<rpc::PermitResponse>, Status> {
        Err(Status::resource_exhausted("too many"))
    }
}

struct Place {
    fake: Fake,
    client: Arc<OriginClient>,
    shutdown: CancellationToken,
    directory: tempfile::TempDir,
}

impl Place {
    /// A client of an origin that listens at `listener`, or of nobody.
    async fn new(token: Option<&str>, served: bool) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        if let Some(token) = token {
            std::fs::write(&path, token).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let fake = Fake::default();
        if served {
            let server = tonic::transport::Server::builder()
                .add_service(MembershipServer::new(fake.clone()))
                .add_service(TrackerServer::new(fake.clone()));
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        }
        let join = JoinAs {
            node_name: "n".into(),
            pool: "p".into(),
            zone: "z".into(),
            public_key: vec![1],
            token_file: token.map(|_| path),
        };
        let config = ClientConfig { url, join };
        let client = Arc::new(OriginClient::new(&config, OriginMetrics::default()).unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(Arc::clone(&client).keep_joined(shutdown.clone()));
        Self { fake, client, shutdown, directory }
    }

    async fn announce(&self) -> Result<u64, OriginError> {
        Ok(self.client.announce(rpc::AnnounceRequest::default()).await?.policy_epoch)
    }
}

#[tokio::test]
async fn joins_by_itself_with_its_name_and_token() {
    let place = Place::new(Some("secret-token\nmore\n"), true).await;
    place.client.sessions().set_addresses(vec!["/ip4/1.2.3.4/tcp/7770".into()]);
    assert_eq!(place.announce().await.unwrap(), 7);
    let joined = place.fake.0.joined_as.lock().unwrap().clone().unwrap();
    let kind = joined.credential.unwrap().kind.unwrap();
    assert_eq!(kind, rpc::credential::Kind::Token("secret-token".into()));
    assert_eq!((joined.pool.as_str(), joined.zone.as_str()), ("p", "z"));
    assert!(place.client.status().joined);
    assert!(place.client.status().session_expires_in > Duration::from_secs(500));
    place.shutdown.cancel();
}

#[tokio::test]
async fn a_session_that_the_origin_forgot_is_renewed_within_the_call() {
    let place = Place::new(None, true).await;
    place.announce().await.unwrap();
    place.fake.forget();
    assert_eq!(place.announce().await.unwrap(), 7);
    assert_eq!(place.fake.0.joins.load(Ordering::Relaxed), 102);
}

#[tokio::test]
async fn an_origin_that_refuses_says_so_and_is_asked_again_later() {
    let place = Place::new(None, true).await;
    place.fake.0.refuses_joins.store(true, Ordering::Relaxed);
    place.fake.forget();
    let mut changes = place.client.sessions().changes();
    let apart = |now: &Membership| matches!(now, Membership::Apart(_));
    // Joined or not by now, the next call finds out.
    let _ = place.announce().await;
    changes.wait_for(apart).await.unwrap();
    assert!(place.client.status().error.is_some());
    place.fake.0.refuses_joins.store(false, Ordering::Relaxed);
    changes.wait_for(|now| matches!(now, Membership::Joined(_))).await.unwrap();
    assert_eq!(place.announce().await.unwrap(), 7);
}

#[tokio::test]
async fn a_broken_token_file_is_named_and_nothing_is_sent() {
    for content in ["", "two words\n", "\n"] {
        let place = Place::new(Some(content), true).await;
        let error = place.announce().await.unwrap_err().to_string();
        let path = place.directory.path().join("token");
        assert!(error.contains("origin.token_file") && error.contains(path.to_str().unwrap()));
        assert_eq!(place.fake.0.joins.load(Ordering::Relaxed), 0);
        place.shutdown.cancel();
    }
}

#[tokio::test]
async fn an_origin_that_is_away_is_unavailable_within_the_bound() {
    let place = Place::new(None, false).await;
    let began = std::time::Instant::now();
    let error = place.announce().await.unwrap_err();
    assert!(matches!(error, OriginError::Unavailable(_)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_busy_tracker_is_no_outage() {
    let place = Place::new(None, true).await;
    let error = place.client.permit(rpc::PermitRequest::default()).await.unwrap_err();
    assert!(matches!(error, OriginError::Busy { .. }), "{error}");
}
