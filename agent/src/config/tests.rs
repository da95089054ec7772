//! Settings as operators write them, right and wrong.

use std::collections::BTreeSet;
use std::path::Path;

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
    assert_eq!(config.containerd.registries, ["10.0.0.1:5000".parse().unwrap()]);
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
        ("containerd.registries", "_default=hub"),
        ("containerd.registries", "docker.io,docker.io=hub"),
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
    assert!(error.starts_with("config: origin.signing_keys: is required"), "{error}");
    let error = load("", &[]).unwrap_err();
    assert!(error.starts_with("config: origin.url: is required"), "{error}");
    let error = load(&format!("{}[mirror]\nlistn = 1\n", minimal()), &[]).unwrap_err();
    assert!(error.starts_with("config: mirror.listn: unknown field"), "{error}");
}

#[test]
fn hosts_toml_can_go_whatever_else_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "nonsense = 1\n[containerd]\nhosts_dir = \"/x\"\n").unwrap();
    let command = longshore_settings::with_flags(Command::new("agent"), SETTINGS);
    let matches = command.get_matches_from(["agent"]);
    let hosts = |path| longshore_settings::load::<HostsOnly>(&matches, SETTINGS, path, |_| None);
    assert_eq!(hosts(&path).unwrap().directory(), Path::new("/x"));
    let none = hosts(&directory.path().join("absent")).unwrap();
    assert_eq!(none.directory(), Path::new("/etc/containerd/certs.d"));
}

/// `table.key` of every line that sets one, whether or not a `#` stands before it.
fn template_keys(text: &str) -> BTreeSet<String> {
    let mut table = "";
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && key.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
        {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

#[test]
fn the_table_the_struct_and_the_template_have_the_same_keys_and_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/agent.toml");
    let template = std::fs::read_to_string(path).unwrap();
    let table: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
    assert_eq!(template_keys(&template), table);

    // With every key uncommented, each is a field's, and stands there with its default.
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(set) if !set.is_empty() && !set.starts_with(' ') => set.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    };
    let all: String = template.lines().map(uncommented).collect();
    let shape = |text: &str| format!("{:?}", toml::from_str::<RawConfig>(text).unwrap());
    assert_eq!(shape(&all), shape(&template));

    // Each field of the struct is a key: the fields are the ones printed, less the tables.
    let tables = all.lines().filter(|line| line.starts_with('[')).count();
    let fields = shape(&all).matches(": ").count() - tables;
    assert_eq!(fields, SETTINGS.len(), "{}", shape(&all));
}
