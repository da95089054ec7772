//! One spelling for a setting: key `mirror.listen`, flag `--mirror-listen`, environment variable
//! `LONGSHORE_MIRROR_LISTEN`; the flag outranks the environment, the environment the file.
//!
//! Owns the merge and its errors. It knows no setting itself: a program brings its typed
//! configuration and the table of its keys. It reads the environment and one file, once, and
//! never prints a value: it may be a secret.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// `EX_CONFIG`'s neighbour in sysexits(3), as the project uses it: the configuration is wrong.
pub const EXIT_CONFIG: u8 = 64;

/// How a setting is written outside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taken as it stands.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Texts separated by commas.
    List,
}

/// One setting: its key in the file, dots between tables.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `mirror.listen`
    pub key: &'static str,
    /// How to read its flag and its variable.
    pub kind: Kind,
    /// One line for `--help`, with the default.
    pub help: &'static str,
}

/// Why there is no configuration: one line, with the key's name where there is one.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The named file can not be read.
    #[error("config: cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("config: {path} line {line}: {message}")]
    Toml {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The parser's first line.
        message: String,
    },
    /// A value has the wrong shape, or a key is unknown.
    #[error("config: {key}: {message}")]
    Key {
        /// `mirror.listen`
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Adds `--config` and one flag per setting to `command`. `-h` leaves the settings out, `--help`
/// shows them under their table's name.
pub fn with_flags(command: Command, settings: &'static [Setting]) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("PATH")
        .env("LONGSHORE_CONFIG")
        .hide_env_values(true)
        .value_parser(clap::value_parser!(PathBuf))
        .help("configuration file (TOML)");
    settings.iter().fold(command.arg(config), |command, setting| {
        command.arg(
            Arg::new(setting.key)
                .long(flag_name(setting.key))
                .value_name("VALUE")
                .help(format!("{} [env: {}]", setting.help, variable_name(setting.key)))
                .help_heading(table_name(setting.key))
                .hide_short_help(true)
                .allow_hyphen_values(true),
        )
    })
}

/// Merges file, environment and flags into the typed configuration.
///
/// `default_file` is read when `--config` names none, and may be missing; a named file may not.
pub fn load<T: DeserializeOwned>(
    matches: &ArgMatches,
    settings: &'static [Setting],
    default_file: &Path,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<T, SettingsError> {
    let named = matches.get_one::<PathBuf>("config");
    let mut table = match named {
        Some(path) => read(path, true)?,
        None => read(default_file, false)?,
    };
    for setting in settings {
        let flag = matches.get_one::<String>(setting.key).cloned();
        let variable = environment(&variable_name(setting.key));
        let text = match (flag, variable) {
            (Some(text), _) => text,
            (None, Some(text)) => {
                text.into_string().map_err(|_| bad(setting.key, "value is not UTF-8"))?
            }
            (None, None) => continue,
        };
        put(&mut table, setting.key, parse(setting, &text)?)?;
    }
    typed(table)
}

fn read(path: &Path, required: bool) -> Result<Table, SettingsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(SettingsError::File { path: path.to_owned(), source }),
    };
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        SettingsError::Toml {
            path: path.to_owned(),
            line: text[..at].matches('\n').count() + 1,
            message: first_line(error.message()),
        }
    })
}

fn parse(setting: &Setting, text: &str) -> Result<Value, SettingsError> {
    match setting.kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Number => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| bad(setting.key, "value is not a whole number")),
        Kind::Switch => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| bad(setting.key, "value is neither true nor false")),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
        }
    }
}

fn put(table: &mut Table, key: &str, value: Value) -> Result<(), SettingsError> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((outer, inner)) => table
            .entry(outer)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| bad(outer, "value is not a table"))
            .and_then(|table| put(table, inner, value)),
    }
}

fn typed<T: DeserializeOwned>(table: Table) -> Result<T, SettingsError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let message = first_line(error.inner().message());
        let key = match (unknown_field(&message), path.as_str()) {
            (Some(field), ".") => field.to_owned(),
            (Some(field), path) if path.split('.').next_back() != Some(field) => {
                format!("{path}.{field}")
            }
            _ => path,
        };
        SettingsError::Key { key, message }
    })
}

/// The field's name in serde's words: "unknown field `x`, expected …", "missing field `x`".
fn unknown_field(message: &str) -> Option<&str> {
    let rest =
        message.strip_prefix("unknown field `").or(message.strip_prefix("missing field `"))?;
    rest.split('`').next()
}

fn bad(key: &str, message: &str) -> SettingsError {
    SettingsError::Key { key: key.to_owned(), message: message.to_owned() }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// `mirror.listen` is in `mirror`.
fn table_name(key: &'static str) -> &'static str {
    key.split_once('.').map_or(key, |(table, _)| table)
}

fn flag_name(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

fn variable_name(key: &str) -> String {
    format!("LONGSHORE_{}", key.replace('.', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        mirror: Mirror,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Mirror {
        listen: String,
        #[serde(default)]
        first_byte_timeout_ms: u64,
        #[serde(default)]
        hosts: Vec<String>,
    }

    const SETTINGS: &[Setting] = &[
        Setting { key: "mirror.listen", kind: Kind::Text, help: "where" },
        Setting { key: "mirror.first_byte_timeout_ms", kind: Kind::Number, help: "how long" },
        Setting { key: "mirror.hosts", kind: Kind::List, help: "whose" },
    ];

    fn load_with(
        file: &str,
        environment: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, file).unwrap();
        let command = with_flags(Command::new("agent"), SETTINGS);
        let matches = command.get_matches_from(std::iter::once(&"agent").chain(flags));
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        load(&matches, SETTINGS, &path, variable)
            .map_err(|e| e.to_string().replace(&path.display().to_string(), "FILE"))
    }

    const FILE: &str = "[mirror]\nlisten = \"file\"\n";

    #[test]
    fn a_flag_outranks_the_environment_and_that_the_file() {
        let variable = [("LONGSHORE_MIRROR_LISTEN", "env")];
        let listen = |result: Result<Config, String>| result.unwrap().mirror.listen;
        assert_eq!(listen(load_with(FILE, &[], &[])), "file");
        assert_eq!(listen(load_with(FILE, &variable, &[])), "env");
        assert_eq!(listen(load_with(FILE, &variable, &["--mirror-listen", "flag"])), "flag");
    }

    #[test]
    fn reads_numbers_and_lists_from_text() {
        let flags = ["--mirror-first-byte-timeout-ms", "7", "--mirror-hosts", "a, b"];
        let mirror = load_with(FILE, &[], &flags).unwrap().mirror;
        assert_eq!((mirror.first_byte_timeout_ms, mirror.hosts), (7, vec!["a".into(), "b".into()]));
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let error = |file: &str, flags: &[&str]| load_with(file, &[], flags).unwrap_err();
        let unknown = error("[mirror]\nlisten = \"x\"\nlistn = \"y\"\n", &[]);
        assert!(unknown.starts_with("config: mirror.listn: unknown field"), "{unknown}");
        let shape = error("[mirror]\nlisten = 7\n", &[]);
        assert!(shape.starts_with("config: mirror.listen: invalid type"), "{shape}");
        let number = error(FILE, &["--mirror-first-byte-timeout-ms", "soon"]);
        assert_eq!(number, "config: mirror.first_byte_timeout_ms: value is not a whole number");
        let missing = error("[mirror]\n", &[]);
        assert!(missing.starts_with("config: mirror.listen: missing field"), "{missing}");
    }

    #[test]
    fn help_is_short_or_ordered_by_table() {
        let mut command = with_flags(Command::new("agent"), SETTINGS);
        let short = command.render_help().to_string();
        assert!(short.contains("--config") && !short.contains("--mirror-listen"), "{short}");
        let long = command.render_long_help().to_string();
        let (table, flag) = (long.find("\nmirror:\n"), long.find("--mirror-listen"));
        assert!(table.is_some() && table < flag, "{long}");
    }

    #[test]
    fn says_where_a_file_is_broken_in_one_line() {
        let error = load_with("[mirror]\nlisten = \n", &[], &[]).unwrap_err();
        assert!(error.starts_with("config: FILE line 2: "), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}
