//! What makes a client of the mirror containerd and not another local user.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

const SECRET_BYTES: usize = 32;

/// A secret of one run of the agent, known to it and to who may read hosts.toml. A restart makes
/// another one, which is harmless: hosts.toml is written anew, and containerd reads it per pull.
#[derive(Clone, PartialEq, Eq)]
pub struct MirrorSecret(String);

impl MirrorSecret {
    /// A new one from the system's randomness.
    pub fn generate() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the system gives randomness");
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The whole value of `Authorization`. Not for logs.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Without `Bearer`. Not for logs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for MirrorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MirrorSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_long_new_each_time_and_never_printed() {
        let (one, other) = (MirrorSecret::generate(), MirrorSecret::generate());
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one, other);
        assert!(!format!("{one:?}").contains(one.expose()));
    }
}
