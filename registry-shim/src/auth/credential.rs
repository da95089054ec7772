//! The `Authorization` header, read into types within bounds.
//!
//! Source: RFC 9110 section 11.6.2, RFC 6750 (Bearer), RFC 7617 (Basic). A credential is a secret:
//! none of these types can be printed with it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest header that is looked at: an identity provider's token with many claims.
const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;
/// Longest user's name.
pub(super) const NAME_CHARS_MAX: usize = 128;

/// What a request shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential<'a> {
    /// A token. What was verified before is told by its bytes, so nothing else is looked at here.
    Bearer(&'a [u8]),
    /// `base64(name:password)`, not yet decoded.
    Basic(&'a str),
    /// A scheme that says nothing here.
    Other,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password {
    pub(super) name: String,
    pub(super) password: String,
}

/// Too long, or not what its scheme says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'a> Credential<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Result<Self, Malformed> {
        if value.len() > CREDENTIAL_BYTES_MAX {
            return Err(Malformed);
        }
        let end = value.iter().position(|&c| c == b' ').unwrap_or(value.len());
        let (scheme, rest) = value.split_at(end);
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            Ok(Self::Bearer(rest))
        } else if scheme.eq_ignore_ascii_case(b"basic") {
            std::str::from_utf8(rest).map(Self::Basic).map_err(|_| Malformed)
        } else {
            Ok(Self::Other)
        }
    }
}

impl Password {
    /// Of Basic's text.
    pub(super) fn decode(encoded: &str) -> Result<Self, Malformed> {
        let decoded = STANDARD.decode(encoded).map_err(|_| Malformed)?;
        let decoded = String::from_utf8(decoded).map_err(|_| Malformed)?;
        let (name, password) = decoded.split_once(':').ok_or(Malformed)?;
        Self::new(name, password)
    }

    pub(super) fn new(name: &str, password: &str) -> Result<Self, Malformed> {
        if name.len() > NAME_CHARS_MAX {
            return Err(Malformed);
        }
        Ok(Self { name: name.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer",
            Self::Basic(_) => "Basic",
            Self::Other => "Other",
        })
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_schemes_in_any_case() {
        assert_eq!(Credential::parse(b"bearer  abc "), Ok(Credential::Bearer(b"abc")));
        assert_eq!(Credential::parse(b"Bearer"), Ok(Credential::Bearer(b"")));
        assert_eq!(Credential::parse(b"BASIC YTpi"), Ok(Credential::Basic("YTpi")));
        assert_eq!(Credential::parse(b"Negotiate x"), Ok(Credential::Other));
        assert_eq!(Credential::parse(b"Basic \xff"), Err(Malformed));
        let long = [b"Bearer ".as_slice(), &vec![b'a'; CREDENTIAL_BYTES_MAX]].concat();
        assert_eq!(Credential::parse(&long), Err(Malformed));
    }

    #[test]
    fn a_password_may_hold_colons_and_a_name_may_not() {
        let decoded = Password::decode(&STANDARD.encode("alice:se:cret")).unwrap();
        assert_eq!((decoded.name.as_str(), decoded.password.as_str()), ("alice", "se:cret"));
        assert!(!format!("{decoded:?}").contains("cret"));
        for malformed in ["YQ==", "%%%", ""] {
            assert_eq!(Password::decode(malformed), Err(Malformed), "{malformed}");
        }
        let long = STANDARD.encode(format!("{}:p", "a".repeat(NAME_CHARS_MAX + 1)));
        assert_eq!(Password::decode(&long), Err(Malformed));
    }

    proptest! {
        #[test]
        fn survives_any_bytes(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Credential::Basic(encoded)) = Credential::parse(&value) {
                let _ = Password::decode(encoded);
            }
            let basic = [b"Basic ".as_slice(), &value].concat();
            if let Ok(Credential::Basic(encoded)) = Credential::parse(&basic) {
                let _ = Password::decode(encoded);
            }
        }
    }
}
