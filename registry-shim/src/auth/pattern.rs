//! Patterns of names: `*` stands for any characters, slashes too; everything else for itself.
//!
//! Compiled once; a match allocates nothing and takes time linear in the name for what operators
//! write (`team/*`, `*`, a plain name), bounded by the product of both lengths for what they do not.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `*`
    Any,
    /// No star.
    Exact(Box<str>),
    /// One star, at the end.
    Prefix(Box<str>),
    /// The pieces between stars.
    Pieces(Box<[Box<str>]>),
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let pieces: Vec<&str> = text.split('*').collect();
        match pieces.as_slice() {
            [whole] => Self::Exact((*whole).into()),
            ["", ""] => Self::Any,
            [prefix, ""] => Self::Prefix((*prefix).into()),
            pieces => Self::Pieces(pieces.iter().map(|piece| (*piece).into()).collect()),
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(whole) => **whole == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Pieces(pieces) => fits(pieces, text),
        }
    }
}

/// The first piece begins the text, the last one ends it, the others follow each other, each at the
/// first place where it stands: if any placing fits, this one does.
fn fits(pieces: &[Box<str>], text: &str) -> bool {
    let [first, between @ .., last] = pieces else { return false };
    let Some(mut rest) = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last))
    else {
        return false;
    };
    for piece in between {
        let Some(at) = rest.find(&**piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a/b"][..], &[][..]),
            ("team/app", &["team/app"], &["team/app2", "team", ""]),
            ("team/*", &["team/a", "team/a/b", "team/"], &["team", "teams/a", "a/team/b"]),
            ("*/public", &["a/public", "a/b/public"], &["public", "a/public/b"]),
            ("a*b*c", &["abc", "a-b-c", "abbc"], &["ab", "ac", "acb", "bac"]),
            ("aa*aa", &["aaaa", "aa-aa"], &["aaa", "aa"]),
        ] {
            let compiled = Pattern::new(pattern);
            for text in yes {
                assert!(compiled.matches(text), "{pattern} {text}");
            }
            for text in no {
                assert!(!compiled.matches(text), "{pattern} {text}");
            }
        }
    }

    /// What the words above say, without an idea.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skipped| naive(rest, &text[skipped..])),
            [one, rest @ ..] => text.first() == Some(one) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_its_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let found = Pattern::new(&pattern).matches(&text);
            prop_assert_eq!(found, naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
