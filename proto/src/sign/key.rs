//! The origin's keys: the secret half signs, the public halves are known by their `kid`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::statement::{BadSignature, Signature, Statement};
use crate::{Algorithm, Digest};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Names a key: the first 16 hex characters of the SHA-256 of its public half.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

/// The public half of one of the origin's keys; as text `KID:BASE64`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kid: KeyId,
    bytes: [u8; 32],
}

/// Every key whose signatures count; several during a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(BTreeMap<KeyId, PublicKey>);

/// The secret half. Never printed.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not `KID:BASE64` of 32 bytes.
    #[error("public key is not KID:BASE64 of 32 bytes")]
    Shape,
    /// The `kid` belongs to another key.
    #[error("kid {said} does not belong to the key, which is {is}")]
    KeyId {
        /// In the text.
        said: String,
        /// Of the key.
        is: String,
    },
    /// No Ed25519 key in PKCS#8 PEM.
    #[error("signing key is not an Ed25519 key in PKCS#8 PEM")]
    Pem,
}

impl KeyId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id as it came; it names a key only if one is found under it.
    pub fn from_wire(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl PublicKey {
    /// A key from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let kid = hex::encode(&Digest::of(Algorithm::Sha256, &bytes).as_bytes()[..8]);
        Self { kid: KeyId(kid), bytes }
    }

    /// Its name.
    pub const fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The 32 bytes of RFC 8032.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (kid, encoded) = text.trim().split_once(':').ok_or(InvalidKey::Shape)?;
        let bytes = base64_decode(encoded).ok_or(InvalidKey::Shape)?;
        let key = Self::from_bytes(bytes.try_into().map_err(|_| InvalidKey::Shape)?);
        if key.kid.0 != kid {
            return Err(InvalidKey::KeyId { said: kid.to_owned(), is: key.kid.0 });
        }
        Ok(key)
    }
}

impl PublicKeys {
    /// These keys; one given twice counts once.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.kid.clone(), key)).collect())
    }

    /// Whether a key of this name counts.
    pub fn contains(&self, kid: &KeyId) -> bool {
        self.0.contains_key(kid)
    }

    /// The keys, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }

    /// Proves that the origin said `statement`.
    pub fn verify<S: Statement>(
        &self,
        statement: &S,
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let key = self
            .0
            .get(&signature.kid)
            .ok_or_else(|| BadSignature::UnknownKey { kid: signature.kid.0.clone() })?;
        UnparsedPublicKey::new(&ED25519, &key.bytes)
            .verify(&statement.layout(), &signature.bytes)
            .map_err(|_| BadSignature::Wrong { domain: S::DOMAIN })
    }
}

impl SigningKey {
    /// A new key from the system's randomness.
    pub fn generate() -> (Self, String) {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the system gives randomness");
        let key = Self::from_pkcs8(document.as_ref()).expect("a key just made is well-formed");
        let body = base64_encode(document.as_ref());
        (key, format!("{PEM_BEGIN}\n{body}\n{PEM_END}\n"))
    }

    /// Reads PKCS#8 PEM, as [`SigningKey::generate`] or `openssl genpkey -algorithm ed25519` write it.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidKey> {
        let body = pem
            .split_once(PEM_BEGIN)
            .and_then(|(_, rest)| rest.split_once(PEM_END))
            .map(|(body, _)| body.split_whitespace().collect::<String>())
            .ok_or(InvalidKey::Pem)?;
        Self::from_pkcs8(&base64_decode(&body).ok_or(InvalidKey::Pem)?)
    }

    fn from_pkcs8(document: &[u8]) -> Result<Self, InvalidKey> {
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(document).map_err(|_| InvalidKey::Pem)?;
        let bytes = pair.public_key().as_ref().try_into().map_err(|_| InvalidKey::Pem)?;
        Ok(Self { pair, public: PublicKey::from_bytes(bytes) })
    }

    /// The half that others may know.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Says `statement`.
    pub fn sign<S: Statement>(&self, statement: &S) -> Signature {
        let bytes = self.pair.sign(&statement.layout()).as_ref().to_vec();
        Signature { kid: self.public.kid.clone(), bytes }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kid, base64_encode(&self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kid)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.kid)
    }
}

fn base64_encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_file_and_its_text() {
        let (key, pem) = SigningKey::generate();
        assert_eq!(SigningKey::from_pem(&pem).unwrap().public(), key.public());
        assert_eq!(key.public().to_string().parse(), Ok(key.public().clone()));
    }

    #[test]
    fn reads_a_key_that_openssl_made() {
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        assert!(SigningKey::from_pem(pem).is_ok());
    }

    #[test]
    fn refuses_texts_that_are_no_key() {
        let (key, _) = SigningKey::generate();
        let text = key.public().to_string();
        assert_eq!("abc".parse::<PublicKey>(), Err(InvalidKey::Shape));
        assert_eq!(text[..40].parse::<PublicKey>(), Err(InvalidKey::Shape));
        let other = format!("0000000000000000:{}", text.split_once(':').unwrap().1);
        assert!(matches!(other.parse::<PublicKey>(), Err(InvalidKey::KeyId { .. })));
        assert_eq!(SigningKey::from_pem("nothing").err(), Some(InvalidKey::Pem));
    }

    #[test]
    fn never_prints_the_secret_half() {
        let (key, _) = SigningKey::generate();
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public().kid()));
    }
}
