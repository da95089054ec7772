//! The `Authorization` header as the registry reads it.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the registry uses the rest")]
#[path = "../../registry-shim/src/auth/credential.rs"]
mod credential;

use credential::{Credential, Password};

fuzz_target!(|data: &[u8]| {
    let Ok(credential) = Credential::parse(data) else { return };
    match credential {
        Credential::Bearer(token) => assert!(token.len() <= data.len()),
        Credential::Basic(encoded) => {
            if let Ok(shown) = Password::decode(encoded) {
                assert!(!shown.name.contains(':'));
                // A secret has no way into a log.
                let printed = format!("{shown:?}");
                let (name, secret) = (&shown.name, &shown.password);
                assert!(secret.len() < 8 || name.contains(secret) || !printed.contains(secret));
            }
        }
        Credential::Other => {}
    }
});
