//! What a request is called in the log and in its answer.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name that is taken from a client.
const BYTES_MAX: usize = 128;

/// The client's own name for it, or one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// What the client calls it, if that is fit for a log; else something new.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        match headers.get(REQUEST_ID) {
            Some(given) if is_fit(given.as_bytes()) => Self(given.clone()),
            _ => Self::new(rand::random()),
        }
    }

    fn new(number: u64) -> Self {
        let mut text = [0; 16];
        for (digit, nibble) in text.iter_mut().zip((0..16).rev()) {
            *digit = b"0123456789abcdef"[(number >> (4 * nibble) & 15) as usize];
        }
        Self(HeaderValue::from_bytes(&text).expect("hex is a header value"))
    }

    /// For the log.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// For the answer.
    pub(super) fn into_value(self) -> HeaderValue {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One word that no log mistakes for something else.
fn is_fit(name: &[u8]) -> bool {
    (1..=BYTES_MAX).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_clients_name_where_it_is_one_word() {
        let of = |value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            RequestId::of(&HeaderMap::from_iter([(REQUEST_ID, value)])).to_string()
        };
        assert_eq!(of("build-7/step.1"), "build-7/step.1");
        for unfit in ["", "two words", "a\"b", "é", &"x".repeat(129)] {
            let ours = of(unfit);
            assert!(ours.len() == 16 && ours.bytes().all(|b| b.is_ascii_hexdigit()), "{ours}");
        }
        assert_eq!(RequestId::new(0x0123_4567_89ab_cdef).to_string(), "0123456789abcdef");
    }
}
