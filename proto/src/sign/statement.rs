//! The statements, and their layout in bytes.

use super::key::KeyId;
use crate::piece::PieceList;
use crate::{Algorithm, Digest, RepositoryName};

/// A signature and the name of the key that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key.
    pub kid: KeyId,
    /// 64 bytes.
    pub bytes: Vec<u8>,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// No key of that name is trusted here.
    #[error("signed by key {kid}, which is not among the origin's keys")]
    UnknownKey {
        /// The name that the signature carries.
        kid: String,
    },
    /// The key never said this.
    #[error("signature of {domain} is wrong")]
    Wrong {
        /// The statement's kind.
        domain: &'static str,
    },
    /// There is none.
    #[error("signature is missing")]
    Missing,
}

/// Something that the origin can say.
pub trait Statement {
    /// Tells this kind from every other, its version included.
    const DOMAIN: &'static str;

    /// Writes the fields.
    fn fields(&self, layout: &mut Layout);

    /// The bytes that are signed.
    fn layout(&self) -> Vec<u8> {
        let mut layout = Layout(Vec::with_capacity(256));
        layout.text(Self::DOMAIN);
        self.fields(&mut layout);
        layout.0
    }
}

/// Collects a statement's fields.
#[derive(Debug)]
pub struct Layout(Vec<u8>);

impl Layout {
    /// Eight bytes, big-endian.
    pub fn number(&mut self, value: u64) {
        self.0.extend(value.to_be_bytes());
    }

    /// The length as a number, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A text as its UTF-8 bytes.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// The algorithm's name, then the raw hash.
    pub fn digest(&mut self, value: &Digest) {
        self.text(value.algorithm().name());
        self.bytes(value.as_bytes());
    }
}

/// "These are the chaining values of this blob."
#[derive(Clone, Debug)]
pub struct PieceListStatement<'a> {
    /// The list; its digest, size, piece length and states are covered.
    pub list: &'a PieceList,
    /// The blob is still filling and its chain may end elsewhere.
    pub provisional: bool,
}

/// "This manifest is in the repository, and these layers are verified members of it."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanStatement {
    /// Where.
    pub repository: RepositoryName,
    /// The image's manifest, or the blob itself when it was asked for alone.
    pub manifest: Digest,
    /// Layers and configuration, in the manifest's order.
    pub layers: Vec<Digest>,
    /// Unix seconds.
    pub issued_at_s: u64,
    /// Of the policy under which it was said.
    pub policy_epoch: u64,
}

/// "This peer may have these layers", beyond what its certificate covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStatement {
    /// libp2p PeerId, base58.
    pub peer_id: String,
    /// The peer's pool.
    pub pool: String,
    /// Where the layers are members.
    pub repository: RepositoryName,
    /// The image's manifest.
    pub manifest: Digest,
    /// [`GrantStatement::hash_layers`] of its layers.
    pub layers_hash: Digest,
    /// Unix seconds, at most 15 minutes ahead.
    pub expires_at_s: u64,
    /// A revocation raises it and so ends the grant.
    pub policy_epoch: u64,
}

impl GrantStatement {
    /// The SHA-256 of the layers' digests, in the manifest's order.
    pub fn hash_layers(layers: &[Digest]) -> Digest {
        let mut layout = Layout(Vec::new());
        layers.iter().for_each(|digest| layout.digest(digest));
        Digest::of(Algorithm::Sha256, &layout.0)
    }
}

impl Statement for PieceListStatement<'_> {
    const DOMAIN: &'static str = "longshore/piece-list/1";

    fn fields(&self, layout: &mut Layout) {
        layout.digest(&self.list.digest());
        layout.number(self.list.size());
        layout.number(self.list.piece_bytes());
        layout.number(u64::from(self.provisional));
        layout.bytes(self.list.states());
    }
}

impl Statement for PlanStatement {
    const DOMAIN: &'static str = "longshore/plan/1";

    fn fields(&self, layout: &mut Layout) {
        layout.text(self.repository.as_str());
        layout.digest(&self.manifest);
        layout.number(self.layers.len() as u64);
        self.layers.iter().for_each(|digest| layout.digest(digest));
        layout.number(self.issued_at_s);
        layout.number(self.policy_epoch);
    }
}

impl Statement for GrantStatement {
    const DOMAIN: &'static str = "longshore/grant/1";

    fn fields(&self, layout: &mut Layout) {
        layout.text(&self.peer_id);
        layout.text(&self.pool);
        layout.text(self.repository.as_str());
        layout.digest(&self.manifest);
        layout.digest(&self.layers_hash);
        layout.number(self.expires_at_s);
        layout.number(self.policy_epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{PublicKeys, SigningKey};

    fn plan(repository: &str) -> PlanStatement {
        PlanStatement {
            repository: repository.parse().unwrap(),
            manifest: Digest::of(Algorithm::Sha256, b"manifest"),
            layers: vec![Digest::of(Algorithm::Sha512, b"layer")],
            issued_at_s: 1,
            policy_epoch: 2,
        }
    }

    #[test]
    fn a_signature_counts_for_its_statement_only() {
        let (key, _) = SigningKey::generate();
        let keys = PublicKeys::new([key.public().clone()]);
        let signature = key.sign(&plan("a/b"));
        assert_eq!(keys.verify(&plan("a/b"), &signature), Ok(()));
        let wrong = Err(BadSignature::Wrong { domain: PlanStatement::DOMAIN });
        assert_eq!(keys.verify(&plan("a/c"), &signature), wrong);
    }

    #[test]
    fn a_key_that_is_not_configured_counts_for_nothing() {
        let (key, _) = SigningKey::generate();
        let (other, _) = SigningKey::generate();
        let keys = PublicKeys::new([other.public().clone()]);
        let unknown = Err(BadSignature::UnknownKey { kid: key.public().kid().to_string() });
        assert_eq!(keys.verify(&plan("a"), &key.sign(&plan("a"))), unknown);
    }

    #[test]
    fn every_part_of_a_piece_list_is_covered() {
        let (key, _) = SigningKey::generate();
        let keys = PublicKeys::new([key.public().clone()]);
        let list = PieceList::of(Algorithm::Sha256, &[1; 300], 64).unwrap();
        let signature = key.sign(&PieceListStatement { list: &list, provisional: false });
        let mut states = list.states().to_vec();
        states[3] ^= 1;
        let forged = PieceList::new(list.digest(), list.size(), 64, states).unwrap();
        let verify = |list, provisional| {
            keys.verify(&PieceListStatement { list, provisional }, &signature).is_ok()
        };
        assert!(verify(&list, false) && !verify(&forged, false) && !verify(&list, true));
    }

    #[test]
    fn the_layout_is_fixed() {
        let layout = hex::encode(plan("a/b").layout());
        assert!(layout.starts_with("0000000000000010"), "the domain's length comes first");
        assert_eq!(layout.len() / 2, 8 + 16 + 8 + 3 + (8 + 6 + 8 + 32) + 8 + (8 + 6 + 8 + 64) + 16);
    }
}
