//! Permits: URLs of this registry that open one range of one blob for a while.
//!
//! The seat of a store's presigned URL where the store cannot sign. The MAC covers repository,
//! digest, range, peer and expiry, so a URL opens nothing else, and needs no other credential.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longshore_proto::{ByteRange, Digest, RepositoryName};
use ring::hmac;

/// Name of the query parameter.
const PARAMETER: &str = "permit";
/// Longest permit that is looked at.
const PERMIT_CHARS_MAX: usize = 512;
const DOMAIN: &str = "longshore/permit/1";

/// What a permit opens, for whom and until when.
#[derive(Clone, Copy, Debug)]
pub struct PermitClaims<'a> {
    /// Where the blob is a member.
    pub repository: &'a RepositoryName,
    /// The blob.
    pub digest: &'a Digest,
    /// The bytes, all of them in one request.
    pub range: ByteRange,
    /// libp2p PeerId, base58: has no dot.
    pub peer_id: &'a str,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
}

/// What a request that shows a permit asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// In the path.
    pub repository: &'a RepositoryName,
    /// In the path.
    pub digest: &'a Digest,
    /// The `Range` header's text; a permit never opens a whole blob by default.
    pub range: Option<&'a str>,
}

/// The permit does not open this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermitRefused {
    /// Malformed, forged, or given for something else.
    #[error("permit does not open this range of this blob")]
    Wrong,
    /// Its time is over: ask the tracker again.
    #[error("permit has expired")]
    Expired,
}

#[derive(Debug)]
pub(super) struct Permits {
    /// The first one signs, all verify; never none.
    keys: Vec<hmac::Key>,
}

impl Permits {
    pub(super) const fn new(keys: Vec<hmac::Key>) -> Self {
        Self { keys }
    }

    pub(super) fn issue(&self, claims: &PermitClaims<'_>) -> String {
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.keys[0], message(claims).as_bytes()));
        let PermitClaims { range, peer_id, expires_at_ms, .. } = claims;
        let (offset, length) = (range.offset(), range.length());
        format!("{PARAMETER}={peer_id}.{expires_at_ms}.{offset}.{length}.{tag}")
    }

    pub(super) fn check(
        &self,
        permit: &str,
        asked: &Asked<'_>,
        now_ms: u64,
    ) -> Result<String, PermitRefused> {
        let refused = PermitRefused::Wrong;
        if permit.len() > PERMIT_CHARS_MAX {
            return Err(refused);
        }
        let mut parts = permit.split('.');
        let mut next = || parts.next().ok_or(refused);
        let (peer_id, expires, offset, length, tag) = (next()?, next()?, next()?, next()?, next()?);
        let number = |text: &str| text.parse::<u64>().map_err(|_| refused);
        let range = ByteRange::new(number(offset)?, number(length)?).ok_or(refused)?;
        let expires_at_ms = number(expires)?;
        let Asked { repository, digest, range: header } = *asked;
        let claims = PermitClaims { repository, digest, range, peer_id, expires_at_ms };
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| refused)?;
        let message = message(&claims);
        let signs = |key: &hmac::Key| hmac::verify(key, message.as_bytes(), &tag).is_ok();
        if !self.keys.iter().any(signs) {
            return Err(refused);
        }
        if header != Some(range.header_value().as_str()) {
            return Err(refused);
        }
        if expires_at_ms <= now_ms {
            return Err(PermitRefused::Expired);
        }
        Ok(peer_id.to_owned())
    }
}

/// No field can hold a line's end, so no two claims share a message.
fn message(claims: &PermitClaims<'_>) -> String {
    let PermitClaims { repository, digest, range, peer_id, expires_at_ms } = claims;
    let (offset, length) = (range.offset(), range.length());
    format!("{DOMAIN}\n{repository}\n{digest}\n{offset}\n{length}\n{peer_id}\n{expires_at_ms}")
}

#[cfg(test)]
mod tests {
    use longshore_proto::Algorithm;

    use super::*;

    #[test]
    fn opens_exactly_what_it_was_given_for() {
        let permits = Permits::new(vec![hmac::Key::new(hmac::HMAC_SHA256, b"k")]);
        let (repository, digest) = ("a/b".parse().unwrap(), Digest::of(Algorithm::Sha256, b"x"));
        let range = ByteRange::new(100, 50).unwrap();
        let issued = permits.issue(&PermitClaims {
            repository: &repository,
            digest: &digest,
            range,
            peer_id: "peer",
            expires_at_ms: 1000,
        });
        let permit = issued.strip_prefix("permit=").unwrap();
        let asked =
            Asked { repository: &repository, digest: &digest, range: Some("bytes=100-149") };
        let refused = Err(PermitRefused::Wrong);
        assert_eq!(permits.check(permit, &asked, 999), Ok("peer".into()));
        assert_eq!(permits.check(permit, &asked, 1000), Err(PermitRefused::Expired));

        let other_repository = "a/c".parse().unwrap();
        let other_digest = Digest::of(Algorithm::Sha256, b"y");
        for wrong in [
            Asked { repository: &other_repository, ..asked },
            Asked { digest: &other_digest, ..asked },
            Asked { range: Some("bytes=100-150"), ..asked },
            Asked { range: Some("bytes=0-"), ..asked },
            Asked { range: None, ..asked },
        ] {
            assert_eq!(permits.check(permit, &wrong, 0), refused, "{wrong:?}");
        }
        let longer = permit.replace(".1000.", ".9000.");
        assert_eq!(permits.check(&longer, &asked, 0), refused);
        assert_eq!(permits.check("", &asked, 0), refused);
    }
}
