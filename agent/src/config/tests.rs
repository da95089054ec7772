//! Settings as operators write them, right and wrong.

use clap::Command;
use longshore_proto::sign::SigningKey;

use super::*;

fn load(file: &str, flags: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, file).unwrap();
    let command = longshore_settings::with_flags(Command::new("agent"), SETTINGS);
    let matches = command.get_matches_from(std::iter::once(&"agent").chain(flags));
    longshore_settings::load::<RawConfig>(&matches, SETTINGS, &path, |_| None)
        .and_then(Config::try_from)
        .map_err(|error| error.to_string())
}

fn minimal() -> String {
    let (key, _) = SigningKey::generate();
    format!("[origin]\nurl = \"http://10.0.0.1:5000\"\nsigning_keys = [\"{}\"]\n", key.public())
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = load(&minimal(), &[]).unwrap();
    assert_eq!(config.mirror.listen, "127.0.0.1:777".parse().unwrap());
    assert_eq!(config.mirror.first_byte_timeout, Duration::from_secs(10));
    assert_eq!(config.containerd.registries, BTreeSet::from(["10.0.0.1:5000".to_owned()]));
    assert_eq!(config.control_socket, PathBuf::from("/run/longshore/agent.sock"));
    assert_eq!((config.node.pool.as_str(), config.node.name.is_empty()), ("default", false));
    assert!(config.swarm.enabled && config.swarm.advertise.is_none() && !config.mirror.open);
}

#[test]
fn every_value_that_can_not_work_is_refused_by_name() {
    for (key, value) in [
        ("origin.url", "nonsense"),
        ("origin.url", "https://10.0.0.1"),
        ("origin.url", "http://10.0.0.1/path"),
        ("origin.signing_keys", "abc"),
        ("origin.token_file", "/nonexistent/token"),
        ("node.name", "two words"),
        ("mirror.listen", "here"),
        ("mirror.listen", "0.0.0.0:777"),
        ("mirror.first_byte_timeout_ms", "30000"),
        ("mirror.stall_timeout_ms", "0"),
        ("mirror.open", "perhaps"),
        ("containerd.registries", "../../etc"),
        ("containerd.hosts_dir", "relative"),
        ("swarm.advertise", "0.0.0.0:7770"),
        ("store.path", "relative"),
        ("store.bytes_max", "-1"),
        ("watchdog.timeout_ms", "1"),
        ("log.format", "xml"),
        ("log.filter", "a=b=c"),
    ] {
        let flag = format!("--{}={value}", key.replace(['.', '_'], "-"));
        let error = load(&minimal(), &[&flag]).unwrap_err();
        assert!(error.starts_with(&format!("config: {key}")), "{flag}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn the_required_ones_are_missed_by_name() {
    let error = load("[origin]\nurl = \"http://a:1\"\n", &[]).unwrap_err();
    assert!(error.starts_with("config: origin.signing_keys: missing field"), "{error}");
    let error = load("", &[]).unwrap_err();
    assert!(error.starts_with("config: origin: missing field"), "{error}");
    let error = load(&format!("{}[mirror]\nlistn = 1\n", minimal()), &[]).unwrap_err();
    assert!(error.starts_with("config: mirror.listn: unknown field"), "{error}");
}

#[test]
fn the_table_and_the_struct_name_the_same_settings() {
    let tables = SETTINGS.iter().map(|setting| {
        let value = match setting.kind {
            Kind::Text => "\"\"",
            Kind::Number => "0",
            Kind::Switch => "false",
            Kind::List => "[]",
        };
        format!("{} = {value}\n", setting.key)
    });
    // A key of the table that the struct lacks is an unknown field here.
    let all: String = tables.collect();
    let all = all.replace("log.format = \"\"", "log.format = \"text\"");
    toml::from_str::<RawConfig>(&all).unwrap();
    // A key of the struct that the table lacks shows as a name too many.
    let debug = format!("{:?}", toml::from_str::<RawConfig>(&all).unwrap());
    let fields = debug.matches(": ").count() - debug.matches(" { ").count() + 1;
    assert_eq!(fields, SETTINGS.len(), "{debug}");
}
