//! From generated messages into the crate's own types, and back.
//!
//! A message is what someone said; a value of these types has been checked. A piece list leaves
//! here only with a signature that counts.

use crate::piece::{InvalidPieceList, PieceList};
use crate::rpc::origin as rpc;
use crate::sign::{
    BadSignature, GrantStatement, KeyId, PieceListStatement, PlanStatement, PublicKeys, Signature,
};
use crate::{Descriptor, Digest, InvalidDigest, InvalidName, RepositoryName};

/// Why a message means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A field that must be there is not.
    #[error("message lacks {0}")]
    Missing(&'static str),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A list that is none.
    #[error(transparent)]
    List(#[from] InvalidPieceList),
    /// A signature that does not count.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// A piece list together with the origin's word for it, so that it can be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPieceList {
    /// The list.
    pub list: PieceList,
    /// The blob was still filling when it was signed.
    pub provisional: bool,
    /// Over [`PieceListStatement`].
    pub signature: Signature,
}

impl SignedPieceList {
    /// Reads a list and proves that the origin said it.
    pub fn from_wire(message: &rpc::PieceList, keys: &PublicKeys) -> Result<Self, InvalidMessage> {
        let signature = signature(message.signature.as_ref())?;
        let list = PieceList::new(
            message.digest.parse()?,
            message.size,
            message.piece_length,
            message.states.to_vec(),
        )?;
        let provisional = message.provisional;
        keys.verify(&PieceListStatement { list: &list, provisional }, &signature)?;
        Ok(Self { list, provisional, signature })
    }

    /// The message that carries it.
    pub fn to_wire(&self) -> rpc::PieceList {
        rpc::PieceList {
            digest: self.list.digest().to_string(),
            size: self.list.size(),
            piece_length: self.list.piece_bytes(),
            states: self.list.states().to_vec().into(),
            provisional: self.provisional,
            signature: Some((&self.signature).into()),
        }
    }
}

impl rpc::PlanStatement {
    /// Reads the statement and proves that the origin said it.
    pub fn verified(&self, keys: &PublicKeys) -> Result<PlanStatement, InvalidMessage> {
        let statement = PlanStatement {
            repository: self.repository.parse()?,
            manifest: self.manifest_digest.parse()?,
            layers: self.layer_digests.iter().map(|d| d.parse()).collect::<Result<_, _>>()?,
            issued_at_s: self.issued_at_s,
            policy_epoch: self.policy_epoch,
        };
        keys.verify(&statement, &signature(self.signature.as_ref())?)?;
        Ok(statement)
    }

    /// The message that carries it.
    pub fn from_statement(statement: &PlanStatement, signature: &Signature) -> Self {
        Self {
            repository: statement.repository.to_string(),
            manifest_digest: statement.manifest.to_string(),
            layer_digests: statement.layers.iter().map(Digest::to_string).collect(),
            issued_at_s: statement.issued_at_s,
            policy_epoch: statement.policy_epoch,
            signature: Some(signature.into()),
        }
    }
}

impl rpc::Grant {
    /// Reads the grant and proves that the origin gave it; whether it has expired is the caller's.
    pub fn verified(&self, keys: &PublicKeys) -> Result<GrantStatement, InvalidMessage> {
        let hash = Digest::from_bytes(crate::Algorithm::Sha256, &self.layers_hash);
        let statement = GrantStatement {
            peer_id: self.peer_id.clone(),
            pool: self.pool.clone(),
            repository: self.repository.parse::<RepositoryName>()?,
            manifest: self.manifest_digest.parse()?,
            layers_hash: hash.ok_or(InvalidMessage::Missing("layers_hash"))?,
            expires_at_s: self.expires_at_s,
            policy_epoch: self.policy_epoch,
        };
        keys.verify(&statement, &signature(self.signature.as_ref())?)?;
        Ok(statement)
    }
}

impl From<&Signature> for rpc::Signature {
    fn from(signature: &Signature) -> Self {
        Self { kid: signature.kid.to_string(), signature: signature.bytes.clone().into() }
    }
}

impl From<&Descriptor> for rpc::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.to_string(),
            size: descriptor.size,
        }
    }
}

impl TryFrom<&rpc::Descriptor> for Descriptor {
    type Error = InvalidMessage;

    fn try_from(message: &rpc::Descriptor) -> Result<Self, InvalidMessage> {
        Ok(Self {
            media_type: message.media_type.clone(),
            digest: message.digest.parse()?,
            size: message.size,
        })
    }
}

fn signature(message: Option<&rpc::Signature>) -> Result<Signature, InvalidMessage> {
    let message = message.ok_or(BadSignature::Missing)?;
    Ok(Signature { kid: KeyId::from_wire(&message.kid), bytes: message.signature.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;
    use crate::sign::SigningKey;

    fn signed(key: &SigningKey) -> SignedPieceList {
        let list = PieceList::of(Algorithm::Sha256, &[5; 1000], 256).unwrap();
        let signature = key.sign(&PieceListStatement { list: &list, provisional: false });
        SignedPieceList { list, provisional: false, signature }
    }

    #[test]
    fn a_list_survives_the_wire_and_nothing_else_does() {
        let (key, _) = SigningKey::generate();
        let keys = PublicKeys::new([key.public().clone()]);
        let message = signed(&key).to_wire();
        assert_eq!(SignedPieceList::from_wire(&message, &keys), Ok(signed(&key)));

        let unsigned = rpc::PieceList { signature: None, ..message.clone() };
        let refused = SignedPieceList::from_wire(&unsigned, &keys);
        assert_eq!(refused, Err(InvalidMessage::Signature(BadSignature::Missing)));
        let grown = rpc::PieceList { size: 1001, ..message };
        assert!(SignedPieceList::from_wire(&grown, &keys).is_err());
    }

    #[test]
    fn a_plan_statement_survives_the_wire() {
        let (key, _) = SigningKey::generate();
        let keys = PublicKeys::new([key.public().clone()]);
        let statement = PlanStatement {
            repository: "a/b".parse().unwrap(),
            manifest: Digest::of(Algorithm::Sha256, b"m"),
            layers: vec![Digest::of(Algorithm::Sha256, b"l")],
            issued_at_s: 3,
            policy_epoch: 4,
        };
        let mut message = rpc::PlanStatement::from_statement(&statement, &key.sign(&statement));
        assert_eq!(message.verified(&keys), Ok(statement));
        message.layer_digests.clear();
        assert!(message.verified(&keys).is_err());
    }
}
