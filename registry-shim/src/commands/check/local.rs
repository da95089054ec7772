//! What this machine has: files and ports. Nothing is left behind.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_proto::sign::SigningKey;

use super::{Row, State};
use crate::auth::{self, Auth, AuthMetrics, JoinTokens, users};
use crate::config::{Config, Join};
use crate::serve;

/// A certificate that ends sooner is warned of.
const CERTIFICATE_DAYS_MIN: i64 = 14;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// A line each, in the order of the configuration's template.
pub(super) fn rows(config: &Config) -> Vec<Row> {
    vec![
        port("serve.listen", config.serve.listen),
        port("admin.listen", config.admin.listen),
        tls(config),
        signing_key(config),
        accepted_keys(config),
        users(config),
        rules(config),
        token_keys(config),
        audit_file(config),
        joins(config),
    ]
}

fn signing_key(config: &Config) -> Row {
    const NAME: &str = "signing key";
    match crate::load_key(config, false) {
        Ok(key) => Row::ok(NAME, key.public()),
        // The first start makes it.
        Err(error) if crate::is_local(config) && !config.identity.signing_key_file.exists() => {
            Row::warn(NAME, error)
        }
        Err(error) => Row::fail(NAME, error),
    }
}

/// Told by themselves: that the signing key is missing is another line.
fn accepted_keys(config: &Config) -> Row {
    const NAME: &str = "accepted keys";
    let files = &config.identity.accepted_key_files;
    let load = |path: &std::path::PathBuf| crate::keys::load(path, false);
    match files.iter().map(load).collect::<Result<Vec<_>, _>>() {
        Ok(keys) if keys.is_empty() => Row::ok(NAME, "none"),
        Ok(keys) => {
            let names: Vec<String> =
                keys.iter().map(|key| key.public().kid().to_string()).collect();
            Row::ok(NAME, names.join(" "))
        }
        Err(error) => Row::fail(NAME, error),
    }
}

fn tls(config: &Config) -> Row {
    const NAME: &str = "tls";
    let expires_at_s = match serve::check_tls(&config.tls) {
        Ok(None) => return Row::warn(NAME, "off: the main port is in the clear"),
        Ok(Some(expires_at_s)) => expires_at_s,
        Err(error) => return Row::fail(NAME, error),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left_s = expires_at_s - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let state = match left_s {
        ..=0 => State::Fail,
        left if left < CERTIFICATE_DAYS_MIN * DAY_SECONDS => State::Warn,
        _ => State::Ok,
    };
    Row::new(NAME, state, format!("the certificate ends in {} days", left_s / DAY_SECONDS))
}

fn users(config: &Config) -> Row {
    const NAME: &str = "users";
    let Some(file) = &config.auth.users_file else { return Row::ok(NAME, "none") };
    match users::list(file) {
        Ok(names) if names.is_empty() => Row::warn(NAME, "the file names nobody"),
        Ok(names) => Row::ok(NAME, names.len()),
        Err(error) => Row::fail(NAME, error),
    }
}

fn rules(config: &Config) -> Row {
    const NAME: &str = "rules and issuers";
    if !config.auth.is_on() {
        return Row::warn(NAME, "none: anybody may do everything");
    }
    // Users and tokens' keys have lines of their own.
    let mut only = config.auth.clone();
    (only.users_file, only.token_keys) = (None, Vec::new());
    let join = Join { token_file: None, ..config.join.clone() };
    match Auth::new(&[&SigningKey::generate().0], &only, &join, AuthMetrics::default()) {
        Ok(_) => Row::ok(NAME, format!("{} and {}", only.rule.len(), only.issuer.len())),
        Err(error) => Row::fail(NAME, error),
    }
}

fn token_keys(config: &Config) -> Row {
    const NAME: &str = "token keys";
    let names = config.auth.token_keys.iter().map(|file| auth::token_key_id(file));
    match names.collect::<Result<Vec<_>, _>>() {
        Ok(names) if names.is_empty() => Row::ok(NAME, "derived from the signing key"),
        Ok(names) => Row::ok(NAME, names.join(" ")),
        Err(error) => Row::fail(NAME, error),
    }
}

fn audit_file(config: &Config) -> Row {
    const NAME: &str = "audit file";
    let Some(path) = &config.auth.audit_file else { return Row::ok(NAME, "none, only logged") };
    match can_append(path) {
        Ok(()) => Row::ok(NAME, "can be written"),
        Err(error) => Row::fail(NAME, format!("{}: {error}", path.display())),
    }
}

/// Where it is missing: whether it can be made.
fn can_append(path: &Path) -> std::io::Result<()> {
    match std::fs::OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = parent.unwrap_or_else(|| Path::new("."));
            tempfile::Builder::new().tempfile_in(directory).map(drop)
        }
        opened => opened.map(drop),
    }
}

fn joins(config: &Config) -> Row {
    const NAME: &str = "join tokens";
    match JoinTokens::load(config.join.token_file.as_deref()) {
        Ok(JoinTokens::Of(_)) => Row::ok(NAME, "read"),
        Ok(JoinTokens::Anyone) if !config.join.identity.is_empty() => {
            Row::ok(NAME, "none: nodes join as join.identity says")
        }
        Ok(JoinTokens::Anyone) if config.auth.is_on() => {
            Row::warn(NAME, "none: clients are asked who they are, and no node can join")
        }
        Ok(JoinTokens::Anyone) => Row::warn(NAME, "none: any node may join"),
        Err(error) => Row::fail(NAME, error),
    }
}

/// A port that is taken may be our own: another instance serves.
fn port(name: &'static str, address: SocketAddr) -> Row {
    // The listener needs a runtime, and this is inside one.
    match serve::bind(address) {
        Ok(_) => Row::ok(name, address),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Row::warn(name, format!("{address} is in use"))
        }
        Err(error) => Row::fail(name, format!("{address}: {error}")),
    }
}
