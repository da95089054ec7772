//! The secret that a request brings, so that other local users can not read private images
//! through the mirror. containerd has it from hosts.toml.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use longshore_proto::{Algorithm, Digest};

use crate::containerd::MirrorSecret;

/// Whether the request brings exactly the secret. Hashing both makes the time say nothing of it.
pub(super) fn brings(secret: &MirrorSecret, headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return false };
    let hash = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
    hash(one.as_bytes()) == hash(secret.authorization().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_header_opens() {
        let secret = MirrorSecret::generate();
        let header = secret.authorization();
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            });
            brings(&secret, &headers)
        };
        assert!(with(&[&header]));
        assert!(!with(&[]) && !with(&["Bearer x"]) && !with(&[&header[..20]]));
        assert!(!with(&[&header, "Bearer x"]));
    }
}
