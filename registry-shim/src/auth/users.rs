//! Static users: their file, read again when it changes, and their passwords.
//!
//! A password is verified by argon2 on a blocking thread, a few at a time, with a bound on how many
//! wait. A verified one is remembered for a while under a hash keyed by this process's randomness
//! and bound to the stored hash, so that Basic on every request does not cost argon2 and a changed
//! password counts at once. An unknown name costs as much as a known one.

mod file;
mod throttle;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Version};
use moka::sync::Cache;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use super::AuthError;
use super::actor::Principal;
use super::credential::Password;
use file::{PASSWORD_BYTES_MAX, Table};
pub use file::{UsersFileError, list, put, remove, verify};
use throttle::Throttle;

/// Passwords that are verified at once: each takes a core and some 20 MiB.
const CHECKS_MAX: usize = 2;
/// Passwords that wait for that.
const WAITING_MAX: usize = 64;
/// How long one waits.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a verified password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
const REMEMBERED_MAX: u64 = 16 * 1024;
/// Between two looks at the file.
const LOOK_PERIOD_MS: u64 = 1000;
/// What a client is told that meets too many others.
const BUSY_RETRY_SECONDS: u32 = 2;

/// The users.
pub(super) struct Users {
    path: PathBuf,
    table: ArcSwap<Table>,
    /// Unix milliseconds of the next look at the file.
    look_at_ms: AtomicU64,
    remembered: Cache<[u8; 32], Arc<Principal>>,
    key: hmac::Key,
    checks: Semaphore,
    waiting: Semaphore,
    throttle: Mutex<Throttle>,
}

impl Users {
    /// Reads the file for the first time.
    pub(super) fn load(path: &Path) -> Result<Self, UsersFileError> {
        let table = Table::load(path)?;
        if table.stamp.is_readable_by_all() {
            tracing::warn!(path = %path.display(), "everybody on this machine may read the users file");
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the system gives randomness");
        Ok(Self {
            path: path.to_owned(),
            table: ArcSwap::from_pointee(table),
            look_at_ms: AtomicU64::new(0),
            remembered: Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .time_to_live(REMEMBERED)
                .build(),
            key,
            checks: Semaphore::new(CHECKS_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            throttle: Mutex::default(),
        })
    }

    /// Whether the file has that name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.table.load().hash(name).is_some()
    }

    /// Whose password it is, if that was verified not long ago. Never waits.
    pub(super) fn recall(&self, shown: &Password, now_ms: u64) -> Option<Arc<Principal>> {
        if self.look_at_ms.load(Ordering::Relaxed) <= now_ms {
            return None;
        }
        let table = self.table.load();
        self.remembered.get(&self.pair(shown, table.hash(&shown.name)?))
    }

    /// Verifies a password; `principal` makes the one whose it is.
    pub(super) async fn verify(
        &self,
        shown: Password,
        client: IpAddr,
        now_ms: u64,
        principal: impl FnOnce(&str) -> Arc<Principal>,
    ) -> Result<Arc<Principal>, AuthError> {
        if let Some(known) = self.recall(&shown, now_ms) {
            return Ok(known);
        }
        self.check_throttle(client, &shown.name, now_ms)?;
        let busy = AuthError::Throttled { retry_after_s: BUSY_RETRY_SECONDS };
        let _waiting = self.waiting.try_acquire().map_err(|_| busy)?;
        let place = tokio::time::timeout(WAIT_TIMEOUT, self.checks.acquire()).await;
        let _place = place.map_err(|_| busy)?.map_err(|_| busy)?;
        // Others may have brought the same pair meanwhile, right or wrong.
        if let Some(known) = self.recall(&shown, now_ms) {
            return Ok(known);
        }
        self.check_throttle(client, &shown.name, now_ms)?;
        if shown.password.len() > PASSWORD_BYTES_MAX {
            return Err(AuthError::Unauthorized);
        }
        let (name, table) = (shown.name.clone(), self.table.load_full());
        let pair = table.hash(&name).map(|hash| self.pair(&shown, hash));
        let checked = tokio::task::spawn_blocking(move || {
            let Some(hash) = table.hash(&shown.name) else {
                spend(&table.cost, &shown.password);
                return false;
            };
            is_password(hash, &shown.password)
        });
        match (checked.await, pair) {
            (Ok(true), Some(pair)) => {
                let principal = principal(&name);
                self.remembered.insert(pair, principal.clone());
                Ok(principal)
            }
            _ => {
                self.throttle().failed(client, &name, now_ms);
                Err(AuthError::Unauthorized)
            }
        }
    }

    /// Reads the file again if it is time to look and it has changed; whether it was read.
    pub(super) async fn refresh(self: &Arc<Self>, now_ms: u64) -> bool {
        let due = self.look_at_ms.load(Ordering::Relaxed);
        let next = now_ms + LOOK_PERIOD_MS;
        let ours = due <= now_ms
            && self
                .look_at_ms
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !ours {
            return false;
        }
        let users = self.clone();
        tokio::task::spawn_blocking(move || users.reload()).await.unwrap_or(false)
    }

    /// A file that is damaged or gone changes nothing: half a write must lock nobody out.
    fn reload(&self) -> bool {
        let known = self.table.load().stamp;
        match file::stamp(&self.path) {
            Ok(stamp) if stamp == known => return false,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "users file cannot be read");
                return false;
            }
        }
        match Table::load(&self.path) {
            Ok(table) => {
                tracing::info!(path = %self.path.display(), ?table, "users file was read again");
                self.table.store(Arc::new(table));
                true
            }
            Err(error) => {
                tracing::error!(%error, "users file is not taken, the one before stands");
                false
            }
        }
    }

    fn check_throttle(&self, client: IpAddr, name: &str, now_ms: u64) -> Result<(), AuthError> {
        match self.throttle().check(client, name, now_ms) {
            Some(retry_after_s) => Err(AuthError::Throttled { retry_after_s }),
            None => Ok(()),
        }
    }

    fn throttle(&self) -> std::sync::MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names a password that fits a stored hash, without telling it.
    fn pair(&self, shown: &Password, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [&shown.name, &shown.password, hash] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.sign().as_ref().try_into().expect("a SHA-256 has 32 bytes")
    }
}

fn is_password(hash: &str, password: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    password.len() <= PASSWORD_BYTES_MAX
        && Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// The work of a verification, for nothing.
fn spend(cost: &argon2::Params, password: &str) {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.clone());
    let mut out = vec![0; cost.output_len().unwrap_or(32)];
    let spent = argon2.hash_password_into(password.as_bytes(), b"nobody has this salt", &mut out);
    std::hint::black_box((spent.is_ok(), out));
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({:?})", self.table.load())
    }
}

#[cfg(test)]
mod tests;
