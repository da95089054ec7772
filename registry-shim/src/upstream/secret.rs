//! Credentials: read once at the start, shown to nobody.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use crate::config::UpstreamRegistry;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

/// Who this registry is at an upstream.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    username: String,
    password: Secret,
}

impl Secret {
    pub(super) const fn new(text: String) -> Self {
        Self(text)
    }

    /// `Bearer …`; `None` when the text cannot stand in a header.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        sensitive(&format!("Bearer {}", self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Credentials {
    /// From the file or the variable that the configuration names; `None`: anonymous. The error is
    /// one line without the secret.
    pub(super) fn load(config: &UpstreamRegistry) -> Result<Option<Self>, String> {
        let password = match (&config.password_file, &config.password_env) {
            (Some(_), Some(_)) => {
                return Err("password_file and password_env exclude each other".to_owned());
            }
            (Some(path), None) => std::fs::read_to_string(path)
                .map_err(|error| format!("password_file {}: {error}", path.display()))?,
            (None, Some(name)) => std::env::var(name)
                .map_err(|_| format!("password_env {name}: no such variable, or no UTF-8"))?,
            (None, None) if config.username.is_empty() => return Ok(None),
            (None, None) => return Err("username has no password_file or password_env".to_owned()),
        };
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        if config.username.is_empty() || password.is_empty() {
            return Err("username or password is empty".to_owned());
        }
        Ok(Some(Self { username: config.username.clone(), password: Secret(password) }))
    }

    /// `Basic …`
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let text = STANDARD.encode(format!("{}:{}", self.username, self.password.0));
        sensitive(&format!("Basic {text}"))
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> UpstreamRegistry {
        toml::from_str(&format!("prefix = \"hub\"\nurl = \"http://hub\"\n{more}")).unwrap()
    }

    #[test]
    fn a_password_is_read_from_its_file_and_never_printed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "hunter2\n").unwrap();
        let named = format!("username = \"me\"\npassword_file = \"{}\"\n", file.display());
        let credentials = Credentials::load(&config(&named)).unwrap().unwrap();
        assert_eq!(credentials.basic().unwrap(), "Basic bWU6aHVudGVyMg==");
        let printed = format!("{credentials:?} {:?}", credentials.basic());
        assert!(!printed.contains("hunter2") && !printed.contains("bWU6"), "{printed}");
    }

    #[test]
    fn half_of_a_credential_is_refused() {
        assert!(Credentials::load(&config("")).unwrap().is_none());
        for wrong in [
            "username = \"me\"\n",
            "username = \"me\"\npassword_file = \"/nowhere/at/all\"\n",
            "username = \"me\"\npassword_env = \"LONGSHORE_NO_SUCH_VARIABLE\"\n",
            "username = \"me\"\npassword_env = \"A\"\npassword_file = \"b\"\n",
            "password_env = \"PATH\"\n",
        ] {
            assert!(Credentials::load(&config(wrong)).is_err(), "{wrong}");
        }
    }
}
