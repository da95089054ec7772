//! `longshore-registry check`: what an operator wants to know before `serve`, as a table or JSON.
//!
//! It opens what the configuration names and leaves nothing behind but the store's own probes. It
//! never prints a secret, and makes no key.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Arg, ArgAction, ArgMatches, Command};
use comfy_table::{Table, presets};
use serde::Serialize;

use super::Failure;
use crate::auth::JoinTokens;
use crate::config::Config;
use crate::{StartError, serve};

/// A certificate that ends sooner is warned of.
const CERTIFICATE_DAYS_MIN: i64 = 14;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// For anything that is asked over a network.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Row {
    check: &'static str,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and the operator should know.
    Warn,
    /// `serve` would not start, or not work.
    Fail,
}

/// `check`
pub fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    Command::new("check").about("Try out the configuration without serving").arg(json)
}

/// Looks at everything; fails when anything does.
#[allow(clippy::print_stdout, reason = "the table is this command's output")]
pub async fn run(matches: &ArgMatches, config: &Config) -> Result<(), Failure> {
    let mut rows = vec![
        Row::new("configuration", State::Ok, "every key is known"),
        key(config),
        tls(config),
        joins(config),
        port("serve.listen", config.serve.listen),
        port("admin.listen", config.admin.listen),
    ];
    rows.extend(storage(config).await);
    rows.push(collector(config).await);
    if matches.get_flag("json") {
        let text = serde_json::to_string_pretty(&rows).expect("rows hold only texts");
        println!("{text}");
    } else {
        println!("{}", table(&rows));
    }
    match rows.iter().filter(|row| row.state == State::Fail).count() {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {} checks failed", rows.len()))),
    }
}

fn key(config: &Config) -> Row {
    const NAME: &str = "signing key";
    match crate::load_key(config, false) {
        Ok(key) => Row::new(NAME, State::Ok, key.public()),
        Err(error) if config.storage.url.is_local() => {
            let missing = !config.identity.signing_key_file.exists();
            let state = if missing { State::Warn } else { State::Fail };
            Row::new(NAME, state, error)
        }
        Err(error) => Row::new(NAME, State::Fail, error),
    }
}

fn tls(config: &Config) -> Row {
    const NAME: &str = "tls";
    let expires_at_s = match serve::check_tls(&config.tls) {
        Ok(None) => return Row::new(NAME, State::Warn, "off: the main port is in the clear"),
        Ok(Some(expires_at_s)) => expires_at_s,
        Err(error) => return Row::new(NAME, State::Fail, error),
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

fn joins(config: &Config) -> Row {
    const NAME: &str = "join tokens";
    match JoinTokens::load(config.join.token_file.as_deref()) {
        Ok(_) if config.join.token_file.is_none() => {
            Row::new(NAME, State::Warn, "none: any node may join")
        }
        Ok(_) => Row::new(NAME, State::Ok, "read"),
        Err(error) => Row::new(NAME, State::Fail, error),
    }
}

/// A port that is taken may be our own: another instance serves.
fn port(name: &'static str, address: SocketAddr) -> Row {
    // The listener needs a runtime, and this is inside one.
    match serve::bind(address) {
        Ok(_) => Row::new(name, State::Ok, address),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Row::new(name, State::Warn, format!("{address} is in use"))
        }
        Err(error) => Row::new(name, State::Fail, format!("{address}: {error}")),
    }
}

async fn storage(config: &Config) -> Vec<Row> {
    const NAME: &str = "storage";
    let opened = async {
        // The key signs nothing here: a store can be tried before there is one.
        let (key, _) = longshore_proto::sign::SigningKey::generate();
        let opened = config.storage.open().map_err(StartError::from)?;
        crate::open_storage(config, opened, std::sync::Arc::new(key)).await
    };
    let storage = match tokio::time::timeout(PATIENCE, opened).await {
        Ok(Ok(storage)) => storage,
        Ok(Err(error)) => return vec![Row::new(NAME, State::Fail, error)],
        Err(_) => return vec![Row::new(NAME, State::Fail, "no answer in time")],
    };
    let probed = match tokio::time::timeout(PATIENCE, storage.probe()).await {
        Ok(Ok(())) => Row::new(NAME, State::Ok, "can be written and read"),
        Ok(Err(error)) => Row::new(NAME, State::Fail, error),
        Err(_) => Row::new(NAME, State::Fail, "no answer in time"),
    };
    let conditional = if storage.capabilities().conditional_create {
        Row::new("conditional writes", State::Ok, "honoured")
    } else {
        let detail = "ignored: what needs them is refused, the rest takes the safe way around";
        Row::new("conditional writes", State::Warn, detail)
    };
    vec![probed, conditional]
}

async fn collector(config: &Config) -> Row {
    const NAME: &str = "telemetry";
    let Some(endpoint) = &config.telemetry.otlp_endpoint else {
        return Row::new(NAME, State::Ok, "off");
    };
    let authority = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.into_parts().authority);
    let Some(authority) = authority else {
        return Row::new(NAME, State::Fail, "no address");
    };
    let address = (authority.host().to_owned(), authority.port_u16().unwrap_or(80));
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Row::new(NAME, State::Ok, authority),
        Ok(Err(error)) => Row::new(NAME, State::Warn, format!("{authority}: {error}")),
        Err(_) => Row::new(NAME, State::Warn, format!("{authority}: no answer in time")),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["CHECK", "STATE", "DETAIL"]);
    for row in rows {
        let state = match row.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        table.add_row([row.check, state, &row.detail]);
    }
    table
}

impl Row {
    fn new(check: &'static str, state: State, detail: impl std::fmt::Display) -> Self {
        Self { check, state, detail: detail.to_string() }
    }
}
