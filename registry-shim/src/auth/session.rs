//! Sessions: what a node shows after it joined. `base64(claims).base64(HMAC)`, kept nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};

/// How long a session lasts; a node joins again before.
pub const SESSION_SECONDS: u32 = 3600;
/// Longest session text that is looked at.
const SESSION_CHARS_MAX: usize = 2048;
/// Tells a session from anything else that a derived key may sign.
const DOMAIN: &[u8] = b"longshore/session/1\0";

/// What a session says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSession {
    /// libp2p PeerId, base58.
    pub peer_id: String,
    /// The node's pool.
    pub pool: String,
    /// The node's zone.
    pub zone: String,
    /// Unix seconds.
    pub expires_at_s: u64,
}

impl NodeSession {
    /// One origin copy is paid per cell: a zone of a pool.
    pub fn cell(&self) -> String {
        format!("{}/{}", self.pool, self.zone)
    }
}

#[derive(Debug)]
pub(super) struct Sessions {
    /// The first one signs, all verify; never none.
    keys: Vec<hmac::Key>,
}

impl Sessions {
    pub(super) const fn new(keys: Vec<hmac::Key>) -> Self {
        Self { keys }
    }

    pub(super) fn issue(&self, session: &NodeSession) -> String {
        let claims = serde_json::to_vec(session).expect("a session holds texts and a number");
        let tag = hmac::sign(&self.keys[0], &message(&claims));
        format!("{}.{}", URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(tag))
    }

    pub(super) fn verify(&self, token: &str, now_s: u64) -> Option<NodeSession> {
        if token.len() > SESSION_CHARS_MAX {
            return None;
        }
        let (claims, tag) = token.split_once('.')?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let message = message(&claims);
        if !self.keys.iter().any(|key| hmac::verify(key, &message, &tag).is_ok()) {
            return None;
        }
        let session: NodeSession = serde_json::from_slice(&claims).ok()?;
        (session.expires_at_s > now_s).then_some(session)
    }
}

fn message(claims: &[u8]) -> Vec<u8> {
    [DOMAIN, claims].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(secrets: &[&[u8]]) -> Sessions {
        let key = |secret: &&[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        Sessions::new(secrets.iter().map(key).collect())
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let session = NodeSession {
            peer_id: "p".into(),
            pool: "one".into(),
            zone: "a".into(),
            expires_at_s: 10,
        };
        let (old, during, new) =
            (sessions(&[b"old"]), sessions(&[b"new", b"old"]), sessions(&[b"new"]));
        let (by_old, by_new) = (old.issue(&session), during.issue(&session));
        assert!(during.verify(&by_old, 0).is_some() && during.verify(&by_new, 0).is_some());
        assert!(new.verify(&by_old, 0).is_none() && new.verify(&by_new, 0).is_some());
    }

    #[test]
    fn a_changed_claim_or_tag_counts_for_nothing() {
        let sessions = sessions(&[b"k"]);
        let session = NodeSession {
            peer_id: "p".into(),
            pool: "one".into(),
            zone: "a".into(),
            expires_at_s: 10,
        };
        let token = sessions.issue(&session);
        assert_eq!(sessions.verify(&token, 0), Some(session.clone()));
        let (_, tag) = token.split_once('.').unwrap();
        let other = NodeSession { pool: "two".into(), ..session };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&other).unwrap());
        assert_eq!(sessions.verify(&format!("{claims}.{tag}"), 0), None);
        assert_eq!(sessions.verify(&token[..token.len() - 2], 0), None);
        assert_eq!(sessions.verify(&"a".repeat(SESSION_CHARS_MAX + 1), 0), None);
    }
}
