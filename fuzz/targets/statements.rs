//! What the origin signs: nothing that anybody else made counts, and two statements that differ
//! have different bytes.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use longshore_proto::rpc::origin as rpc;
use longshore_proto::sign::{KeyId, PlanStatement, PublicKeys, Signature, SigningKey, Statement};
use longshore_proto::{Algorithm, Digest};
use prost::Message as _;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().0);
static KEYS: LazyLock<PublicKeys> = LazyLock::new(|| PublicKeys::new([KEY.public().clone()]));

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = rpc::PlanStatement::decode(data) {
        assert!(message.verified(&KEYS).is_err(), "nobody signed this");
    }
    if let Ok(message) = rpc::Grant::decode(data) {
        assert!(message.verified(&KEYS).is_err(), "nobody signed this");
    }
    let (one, other) = data.split_at(data.len() / 2);
    let (Some(one), Some(other)) = (statement(one), statement(other)) else { return };
    assert_eq!(one.layout() == other.layout(), one == other);
    let signature = KEY.sign(&one);
    assert_eq!(KEYS.verify(&one, &signature), Ok(()));
    assert_eq!(KEYS.verify(&other, &signature).is_ok(), one == other);
    let cut = Signature { kid: KeyId::from_wire("none"), bytes: data.to_vec() };
    assert!(KEYS.verify(&one, &cut).is_err());
});

fn statement(data: &[u8]) -> Option<PlanStatement> {
    let (&[name, layers, epoch], rest) = data.split_first_chunk()?;
    let (repository, rest) = rest.split_at_checked(usize::from(name % 8))?;
    let of = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
    Some(PlanStatement {
        repository: std::str::from_utf8(repository).ok()?.parse().ok()?,
        manifest: of(rest),
        layers: (0..layers % 3).map(|layer| of(&[layer])).collect(),
        issued_at_s: rest.len() as u64,
        policy_epoch: u64::from(epoch),
    })
}
