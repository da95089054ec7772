//! Join tokens: a file with one token a line, and after it the pools that it lets nodes join, as
//! patterns; none: any pool. `#` begins a comment line.
//!
//! The tokens are secrets: they are kept as hashes and never printed. Comparison takes the same
//! time whatever matches.

use std::fmt;
use std::path::{Path, PathBuf};

use longshore_proto::{Algorithm, Digest};

use super::pattern::Pattern;

/// Shortest token that is taken: fewer characters can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Who may join.
pub enum JoinTokens {
    /// No token is asked for.
    Anyone,
    /// The tokens.
    Of(Vec<JoinToken>),
}

/// A token's SHA-256, and what it is good for.
pub struct JoinToken {
    hash: [u8; 32],
    pools: Vec<Pattern>,
}

/// Why the file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has no token: nobody could ever join.
    #[error("{0} has no token")]
    Empty(PathBuf),
    /// Too short to be a secret.
    #[error("{path} line {line}: token has less than {TOKEN_CHARS_MIN} characters")]
    Short {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
}

impl JoinTokens {
    /// Reads the file; no path: anyone may join.
    pub fn load(path: Option<&Path>) -> Result<Self, TokenFileError> {
        let Some(path) = path else { return Ok(Self::Anyone) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
        let mut tokens = Vec::new();
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let token = words.next().unwrap_or_default();
            if token.len() < TOKEN_CHARS_MIN {
                return Err(TokenFileError::Short { path: path.to_owned(), line: at + 1 });
            }
            let pools: Vec<Pattern> = words.map(Pattern::new).collect();
            let pools = if pools.is_empty() { vec![Pattern::Any] } else { pools };
            tokens.push(JoinToken { hash: hash(token), pools });
        }
        if tokens.is_empty() {
            return Err(TokenFileError::Empty(path.to_owned()));
        }
        Ok(Self::Of(tokens))
    }

    /// Whether `token` is one of these and good for `pool`.
    pub fn admit(&self, token: &str, pool: &str) -> bool {
        let Self::Of(tokens) = self else { return false };
        let shown = hash(token);
        // Every byte of every hash is looked at.
        let differs = |known: &JoinToken| {
            known.hash.iter().zip(&shown).fold(0_u8, |differs, (a, b)| differs | (a ^ b))
        };
        let fits = |known: &JoinToken| known.pools.iter().any(|pattern| pattern.matches(pool));
        tokens
            .iter()
            .fold(false, |admitted, known| admitted | (fits(known) & (differs(known) == 0)))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("pools", &self.pools).finish_non_exhaustive()
    }
}

fn hash(token: &str) -> [u8; 32] {
    let digest = Digest::of(Algorithm::Sha256, token.as_bytes());
    digest.as_bytes().try_into().expect("a SHA-256 has 32 bytes")
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("Anyone"),
            Self::Of(tokens) => write!(f, "Of({} tokens)", tokens.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_a_token_of_the_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let text = "# nodes\n0123456789abcdef\n\n fedcba9876543210 gpu eu-*\n";
        std::fs::write(&path, text).unwrap();
        let tokens = JoinTokens::load(Some(&path)).unwrap();
        let admits = |token: &str, pool: &str| tokens.admit(token, pool);
        assert!(admits("0123456789abcdef", "any"));
        assert!(admits("fedcba9876543210", "gpu") && admits("fedcba9876543210", "eu-1"));
        assert!(!admits("fedcba9876543210", "us-1"));
        assert!(!admits("", "a") && !admits("# nodes", "a") && !admits("0123456789abcdeg", "a"));
        assert!(!format!("{tokens:?}").contains("0123"));
    }

    #[test]
    fn refuses_a_file_that_lets_nobody_or_anybody_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let load = || JoinTokens::load(Some(&path)).unwrap_err();
        assert!(matches!(load(), TokenFileError::Read { .. }));
        std::fs::write(&path, "# none\n").unwrap();
        assert!(matches!(load(), TokenFileError::Empty(_)));
        std::fs::write(&path, "\nshort\n").unwrap();
        assert!(matches!(load(), TokenFileError::Short { line: 2, .. }));
        assert!(matches!(JoinTokens::load(None), Ok(JoinTokens::Anyone)));
    }
}
