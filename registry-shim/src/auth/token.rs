//! Tokens: what a client of Docker's flow shows after it said who it is. Issued and verified here.
//!
//! Source: Docker Registry v2 "Token Authentication Implementation"; RFC 7519. HS256 with secrets
//! that every instance has: verifying costs 5 µs where a signature by key pair costs twenty times
//! that, and nobody else verifies them. A token says who its bearer is and what it was given for;
//! what that bearer may do is asked of the policy each time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::scope::{Access, Scope};
use crate::keys::{self, KeyFileError};

/// Clocks of instances may differ by this much.
const BACKDATED_SECONDS: u64 = 60;
/// Shortest secret: as long as the hash.
const SECRET_BYTES_MIN: usize = 32;
const SECRET_BYTES_MAX: usize = 4096;
/// Keys at once: the one that signs and those before it.
const KEYS_MAX: usize = 16;

/// Issues and verifies.
#[derive(Debug)]
pub(super) struct Tokens {
    /// The first one signs.
    keys: ArcSwap<Vec<Key>>,
    files: Vec<PathBuf>,
    service: String,
    seconds: u32,
}

/// A secret and its name.
struct Key {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The token itself: a secret.
    pub token: String,
    /// Names it in the audit log.
    pub id: String,
    /// Seconds.
    pub expires_in: u32,
    /// Unix seconds.
    pub issued_at_s: u64,
}

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) subjects: Vec<String>,
    pub(super) scope: Scope,
    pub(super) expires_at_s: u64,
}

/// Why the tokens' secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The file, or who may read it.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A secret that can be guessed, or no secret at all.
    #[error("{0} does not hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
    Length(PathBuf),
    /// More than anybody rotates.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    access: Vec<Access>,
    /// All names that rules may call the bearer by.
    subjects: Vec<String>,
}

impl Tokens {
    /// With the secrets of these files; without any, with the derived ones.
    pub(super) fn new(
        files: &[PathBuf],
        derived: &[hmac::Tag],
        service: &str,
        seconds: u32,
    ) -> Result<Self, TokenKeyError> {
        if files.len() > KEYS_MAX {
            return Err(TokenKeyError::TooMany);
        }
        let keys = match files {
            [] => derived.iter().map(|secret| Key::new(secret.as_ref())).collect(),
            files => load(files)?,
        };
        let (files, service) = (files.to_vec(), service.to_owned());
        Ok(Self { keys: ArcSwap::from_pointee(keys), files, service, seconds })
    }

    /// Reads the files again; when one cannot be taken, all keys stay as they were.
    pub(super) fn reload(&self) -> Result<(), TokenKeyError> {
        if !self.files.is_empty() {
            self.keys.store(Arc::new(load(&self.files)?));
        }
        Ok(())
    }

    /// A token for whom `subjects` name, the first one being its `sub`.
    pub(super) fn issue(&self, subjects: &[String], scope: &Scope, now_s: u64) -> Issued {
        let keys = self.keys.load();
        let key = keys.first().expect("there is always a key");
        let claims = Claims {
            iss: self.service.clone(),
            sub: subjects.first().cloned().unwrap_or_default(),
            aud: self.service.clone(),
            exp: now_s + u64::from(self.seconds),
            nbf: now_s.saturating_sub(BACKDATED_SECONDS),
            iat: now_s,
            jti: Uuid::new_v4().simple().to_string(),
            access: scope.to_access(),
            subjects: subjects.to_vec(),
        };
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims, &key.encoding)
            .expect("texts and numbers are JSON, and the key fits the algorithm");
        Issued { token, id: claims.jti, expires_in: self.seconds, issued_at_s: now_s }
    }

    /// What the token says, if one of these keys signed it and it holds now.
    pub(super) fn verify(&self, token: &str, now_s: u64) -> Option<Said> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let kid = header.kid?;
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.kid == kid)?;
        let mut wanted = Validation::new(Algorithm::HS256);
        wanted.set_issuer(&[&self.service]);
        wanted.set_audience(&[&self.service]);
        wanted.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        // Compared below, with the caller's time.
        (wanted.validate_exp, wanted.validate_nbf) = (false, false);
        let said = jsonwebtoken::decode::<Claims>(token, &key.decoding, &wanted).ok()?.claims;
        let holds = said.nbf <= now_s && now_s < said.exp;
        let named = said.subjects.first() == Some(&said.sub);
        (holds && named).then(|| Said {
            subjects: said.subjects,
            scope: Scope::from_access(&said.access),
            expires_at_s: said.exp,
        })
    }

    /// Whether the token says that one of these keys signed it.
    pub(super) fn signed(&self, token: &str) -> bool {
        let kid = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        kid.is_some_and(|kid| self.keys.load().iter().any(|key| key.kid == kid))
    }
}

impl Key {
    fn new(secret: &[u8]) -> Self {
        let named =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"longshore/token-kid/1");
        Self {
            kid: hex::encode(&named.as_ref()[..8]),
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
        }
    }
}

fn load(files: &[PathBuf]) -> Result<Vec<Key>, TokenKeyError> {
    files.iter().map(|file| secret(file).map(|secret| Key::new(&secret))).collect()
}

/// Makes a file with a new secret; the name of its key.
///
/// # Errors
/// When something is there, or the file cannot be made.
pub fn make_token_key(path: &Path) -> Result<String, KeyFileError> {
    let mut secret = [0; SECRET_BYTES_MIN];
    SystemRandom::new().fill(&mut secret).expect("the system gives randomness");
    let secret = hex::encode(secret);
    keys::write_new(path, format!("{secret}\n").as_bytes())?;
    Ok(Key::new(secret.as_bytes()).kid)
}

/// The name of a file's key, as tokens say it.
///
/// # Errors
/// When the file cannot be used.
pub fn token_key_id(path: &Path) -> Result<String, TokenKeyError> {
    Ok(Key::new(&secret(path)?).kid)
}

/// The file's content without the white space at its ends.
fn secret(path: &Path) -> Result<Vec<u8>, TokenKeyError> {
    let content = keys::read_secret(path, SECRET_BYTES_MAX)?;
    let secret = content.trim_ascii();
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
        return Ok(secret.to_vec());
    }
    Err(TokenKeyError::Length(path.to_owned()))
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.kid)
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn tag(secret: &str) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), b"")
    }

    fn tokens(secret: &str) -> Tokens {
        Tokens::new(&[], &[tag(secret)], "here", 300).unwrap()
    }

    fn alice() -> Vec<String> {
        vec!["user:alice".to_owned(), "group:a".to_owned()]
    }

    fn scope() -> Scope {
        Scope::parse(std::iter::once("repository:a:pull registry:catalog:*")).unwrap()
    }

    #[test]
    fn says_who_and_what_for_from_a_minute_before_to_its_end() {
        let tokens = tokens("one");
        let token = tokens.issue(&alice(), &scope(), 1000).token;
        let said = Said { subjects: alice(), scope: scope(), expires_at_s: 1300 };
        for now in [940, 1000, 1299] {
            assert_eq!(tokens.verify(&token, now).as_ref(), Some(&said), "{now}");
        }
        assert_eq!((tokens.verify(&token, 939), tokens.verify(&token, 1300)), (None, None));
    }

    #[test]
    fn another_secret_service_or_algorithm_is_not_ours() {
        let ours = tokens("one");
        let other = tokens("two").issue(&alice(), &scope(), 0).token;
        assert_eq!(ours.verify(&other, 0), None);
        let elsewhere = Tokens::new(&[], &[tag("one")], "elsewhere", 300).unwrap();
        assert_eq!(ours.verify(&elsewhere.issue(&alice(), &scope(), 0).token, 0), None);

        let token = ours.issue(&alice(), &scope(), 0).token;
        let (_, rest) = token.split_once('.').unwrap();
        let kid = &ours.keys.load()[0].kid;
        for alg in ["none", "HS512", "EdDSA", "hs256"] {
            use base64::Engine as _;
            let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
            let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header);
            assert_eq!(ours.verify(&format!("{header}.{rest}"), 0), None, "{alg}");
            let unsigned = rest.split('.').next().unwrap();
            assert_eq!(ours.verify(&format!("{header}.{unsigned}."), 0), None, "{alg}");
        }
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("{}\n", name.repeat(32))).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        let (old, new) = (file("a"), file("b"));
        let load = |files: &[PathBuf]| Tokens::new(files, &[tag("x")], "here", 300).unwrap();
        let before = load(std::slice::from_ref(&old));
        let during = load(&[new.clone(), old]);
        let after = load(std::slice::from_ref(&new));
        let by_old = before.issue(&alice(), &scope(), 0).token;
        let by_new = during.issue(&alice(), &scope(), 0).token;
        assert!(during.verify(&by_old, 0).is_some() && during.verify(&by_new, 0).is_some());
        assert!(after.verify(&by_old, 0).is_none() && after.verify(&by_new, 0).is_some());
        assert!(!format!("{during:?}").contains(&"b".repeat(32)));

        std::fs::write(&new, "short").unwrap();
        let error = Tokens::new(std::slice::from_ref(&new), &[tag("x")], "here", 300).unwrap_err();
        assert!(matches!(error, TokenKeyError::Length(_)));
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        let error = Tokens::new(&[new], &[tag("x")], "here", 300).unwrap_err();
        assert!(matches!(error, TokenKeyError::File(KeyFileError::Open { .. })));
    }
}
