//! Users behind their own door: what is remembered, what is forgotten, what is slowed down.

use super::super::policy::Grants;
use super::*;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

struct Lab {
    directory: tempfile::TempDir,
    users: Arc<Users>,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        put(&path, "alice", "right").unwrap();
        Self { users: Arc::new(Users::load(&path).unwrap()), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("users")
    }

    async fn login(&self, name: &str, password: &str, now_ms: u64) -> Result<String, AuthError> {
        self.users.refresh(now_ms).await;
        let make =
            |name: &str| Principal::new(vec![format!("user:{name}")], Grants::default(), None);
        let shown = Password::new(name, password).unwrap();
        let verified = self.users.verify(shown, CLIENT, now_ms, make).await;
        verified.map(|principal| principal.label().to_owned())
    }
}

#[tokio::test]
async fn a_verified_password_is_recalled_and_no_other() {
    let lab = Lab::new();
    assert_eq!(lab.login("alice", "wrong", 1).await, Err(AuthError::Unauthorized));
    assert_eq!(lab.login("bob", "right", 1).await, Err(AuthError::Unauthorized));
    assert_eq!(lab.login("alice", "right", 1).await.as_deref(), Ok("user:alice"));
    let recall = |name, password| lab.users.recall(&Password::new(name, password).unwrap(), 2);
    assert!(recall("alice", "right").is_some());
    assert!(recall("alice", "wrong").is_none() && recall("bob", "right").is_none());
    // Lengths are part of what is hashed.
    assert!(recall("alicer", "ight").is_none());
}

#[tokio::test]
async fn a_changed_file_counts_at_the_next_look() {
    let lab = Lab::new();
    assert!(lab.login("alice", "right", 1).await.is_ok());
    put(&lab.path(), "alice", "new").unwrap();
    put(&lab.path(), "bob", "too").unwrap();
    assert_eq!(lab.login("bob", "too", 500).await, Err(AuthError::Unauthorized));
    let later = 1 + LOOK_PERIOD_MS;
    // Not even what is remembered is told before the file was looked at.
    assert!(lab.users.recall(&Password::new("alice", "right").unwrap(), later).is_none());
    assert_eq!(lab.login("bob", "too", later).await.as_deref(), Ok("user:bob"));
    assert_eq!(lab.login("alice", "right", later).await, Err(AuthError::Unauthorized));
    assert!(lab.login("alice", "new", later).await.is_ok());
}

#[tokio::test]
async fn a_damaged_file_locks_nobody_out() {
    let lab = Lab::new();
    std::fs::write(lab.path(), "alice:oops").unwrap();
    assert!(lab.login("alice", "right", 1).await.is_ok());
    std::fs::remove_file(lab.path()).unwrap();
    assert!(lab.login("alice", "right", 5000).await.is_ok());
}

#[tokio::test]
async fn who_guesses_waits_even_with_the_right_one() {
    let lab = Lab::new();
    for _ in 0..10 {
        assert_eq!(lab.login("alice", "wrong", 1).await, Err(AuthError::Unauthorized));
    }
    let waits = Err(AuthError::Throttled { retry_after_s: 60 });
    assert_eq!(lab.login("alice", "right", 1).await, waits);
    assert!(lab.login("alice", "right", 60_001).await.is_ok());
}

#[tokio::test]
async fn an_unknown_name_costs_as_much_as_a_known_one() {
    let lab = Lab::new();
    let table = lab.users.table.load();
    let known = PasswordHash::new(table.hash("alice").unwrap()).unwrap();
    assert_eq!(table.cost, argon2::Params::try_from(&known).unwrap());
}
