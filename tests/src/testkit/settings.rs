//! The settings of our programs as the lab passes them: by environment, which is the same for
//! every key, over an empty configuration file, so that nothing of the machine's own is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::error::{Context, Result};
use super::host::Host;

/// What a failing lab's logs should say; overrides the programs' default filter.
const LOG_VARIABLE: &str = "LONGSHORE_LAB_LOG";

/// Program and arguments, and the environment on top of the lab's own.
pub type CommandLine = (Vec<String>, Vec<(String, String)>);

/// Keys and values, spelled as in the configuration file.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// Sets a key such as `mirror.listen`; the last value counts.
    pub fn set(&mut self, key: &str, value: impl ToString) -> &mut Self {
        self.values.insert(key.to_owned(), value.to_string());
        self
    }

    /// What a key is set to.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Sets a key that is not set yet.
    pub(crate) fn or_set(&mut self, key: &str, value: impl ToString) -> &mut Self {
        self.values.entry(key.to_owned()).or_insert_with(|| value.to_string());
        self
    }

    /// All of them.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Lets the lab's own variable choose the log filter.
    pub(crate) fn log_filter(&mut self) -> &mut Self {
        if let Ok(filter) = std::env::var(LOG_VARIABLE) {
            self.or_set("log.filter", filter);
        }
        self
    }

    /// As environment variables: `mirror.listen` is `LONGSHORE_MIRROR_LISTEN`.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let name = |key: &str| format!("LONGSHORE_{}", key.to_uppercase().replace('.', "_"));
        self.values.iter().map(|(key, value)| (name(key), value.clone())).collect()
    }
}

/// An empty configuration file of this name.
pub(crate) fn empty_file(host: &Host, name: &str) -> Result<PathBuf> {
    let path = host.directory().join(name);
    fs::write(&path, "").during(|| path.display().to_string())?;
    Ok(path)
}
