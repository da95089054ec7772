//! Groups: what a token's claims make its bearer, for the rules.

use serde_json::Value;

use crate::auth::pattern::Pattern;
use crate::config::auth::ClaimGroup;

/// A group and what it takes to be in it.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    /// All of them have to fit.
    claims: Vec<(String, Pattern)>,
}

/// A group that everybody would be in.
#[derive(Debug, thiserror::Error)]
#[error("group {0} names no claim")]
pub(in crate::auth) struct InvalidGroup(String);

impl Group {
    pub(super) fn new(config: &ClaimGroup) -> Result<Self, InvalidGroup> {
        if config.claims.is_empty() {
            return Err(InvalidGroup(config.name.clone()));
        }
        let compile = |(name, pattern): (&String, &String)| (name.clone(), Pattern::new(pattern));
        Ok(Self { name: config.name.clone(), claims: config.claims.iter().map(compile).collect() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the token's bearer is in it.
    pub(super) fn holds(&self, said: &Value) -> bool {
        self.claims.iter().all(|(name, pattern)| {
            let value = if name.starts_with('/') { said.pointer(name) } else { said.get(name) };
            value.is_some_and(|value| fits(value, pattern))
        })
    }
}

/// One of a list has to fit. What is no text, number or truth value fits nothing.
fn fits(value: &Value, pattern: &Pattern) -> bool {
    match value {
        Value::String(text) => pattern.matches(text),
        Value::Bool(_) | Value::Number(_) => pattern.matches(&value.to_string()),
        Value::Array(values) => {
            let fits = |value: &Value| value.as_str().is_some_and(|text| pattern.matches(text));
            values.iter().any(fits)
        }
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn group(claims: &[(&str, &str)]) -> Group {
        let own = |(name, pattern): &(&str, &str)| ((*name).to_owned(), (*pattern).to_owned());
        let claims = claims.iter().map(own).collect();
        Group::new(&ClaimGroup { name: "g".to_owned(), claims }).unwrap()
    }

    #[test]
    fn all_named_claims_have_to_fit() {
        let said = json!({
            "repository": "team/app", "ref": "refs/heads/main", "attempt": 2, "ok": true,
            "groups": ["a", "b"], "kubernetes.io": { "namespace": "prod" }, "nothing": null,
        });
        for (claims, holds) in [
            (&[("repository", "team/*"), ("ref", "refs/heads/main")][..], true),
            (&[("repository", "team/*"), ("ref", "refs/tags/*")], false),
            (&[("attempt", "2"), ("ok", "true"), ("groups", "b")], true),
            (&[("groups", "c")], false),
            (&[("/kubernetes.io/namespace", "prod")], true),
            (&[("kubernetes.io", "*")], false),
            (&[("nothing", "*")], false),
            (&[("missing", "*")], false),
        ] {
            assert_eq!(group(claims).holds(&said), holds, "{claims:?}");
        }
        let everybody = ClaimGroup { name: "g".to_owned(), claims: BTreeMap::new() };
        assert!(Group::new(&everybody).is_err());
    }
}
