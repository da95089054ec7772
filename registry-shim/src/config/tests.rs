//! Settings as operators write them, right and wrong.

use std::collections::BTreeSet;

use clap::Command;

use super::*;

/// What the package installs.
const TEMPLATE: &str = include_str!("../../../packaging/registry.toml");

/// What can only stand in the file: it has no flag and no variable.
const LISTS_OF_TABLES: &[&str] =
    &["auth.issuer", "auth.rule", "join.identity", "regions.region", "upstream.registry"];

fn load(file: &str, flags: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.toml");
    std::fs::write(&path, file).unwrap();
    let command = longshore_settings::with_flags(Command::new("registry"), settings());
    let matches = command.get_matches_from(std::iter::once(&"registry").chain(flags));
    longshore_settings::load(&matches, settings(), &path, |_| None)
        .map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.serve.listen, "0.0.0.0:5000".parse().unwrap());
    assert_eq!(config.serve.advertise, None);
    assert_eq!(config.admin.listen, "127.0.0.1:5001".parse().unwrap());
    assert_eq!(config.storage.url, "file:///var/lib/longshore-registry".parse().unwrap());
    assert_eq!(config.join.token_file, None);
    assert_eq!(config.tracker.announce_period_ms, 5000);
    assert_eq!((config.log.filter.as_str(), config.log.format), ("info", LogFormat::Text));
}

#[test]
fn every_value_that_can_not_work_is_refused_by_name() {
    for (key, value) in [
        ("serve.listen", "here"),
        ("serve.listen", "0.0.0.0"),
        ("serve.advertise", "10.0.0.1:5000"),
        ("serve.advertise", "http://10.0.0.1:5000/path"),
        ("serve.advertise", "ftp://10.0.0.1"),
        ("admin.listen", ""),
        ("storage.url", "/var/lib"),
        ("storage.url", "ftp://bucket"),
        ("storage.url", "s3://b"),
        ("storage.endpoint", "10.0.0.1:3900"),
        ("storage.endpoint", "https://user:secret@10.0.0.1"),
        ("storage.path_style", "yes"),
        ("storage.redirect_expiry_s", "0"),
        ("storage.redirect_expiry_s", "604801"),
        ("storage.redirect_endpoint", "layers.example"),
        ("storage.immutable_tags", "prod"),
        ("limits.client_bytes_per_s", "65535"),
        ("tracker.announce_period_ms", "0"),
        ("tracker.announce_period_ms", "soon"),
        ("log.filter", "a=b=c"),
        ("log.format", "xml"),
    ] {
        let flag = format!("--{}={value}", key.replace(['.', '_'], "-"));
        let error = load("", &[&flag]).unwrap_err();
        assert!(error.starts_with(&format!("config: {key}: ")), "{flag}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = load("[serve]\nlisten = \"127.0.0.1:0\"\nlistn = 1\n", &[]).unwrap_err();
    assert!(error.starts_with("config: serve.listn: unknown field"), "{error}");
    let error = load("[server]\n", &[]).unwrap_err();
    assert!(error.starts_with("config: server: unknown field"), "{error}");
}

#[test]
fn a_base_url_has_no_slash_at_its_end() {
    let config = load("", &["--serve-advertise", "http://10.0.0.1:5000/"]).unwrap();
    assert_eq!(config.serve.advertise.as_deref(), Some("http://10.0.0.1:5000"));
}

#[test]
fn the_table_and_the_struct_name_the_same_settings() {
    // Serde lists the fields that it knows in the error for one that it does not.
    let known = |table: &str, known_in: &str| {
        let error = load(table, &[]).unwrap_err();
        let (_, listed) = error.split_once("expected ").expect("the known fields are listed");
        let names = listed.split('`').skip(1).step_by(2);
        names.map(|name| format!("{known_in}{name}")).collect::<BTreeSet<_>>()
    };
    let tables = known("no_such_table = 1", "");
    let keys: BTreeSet<String> = tables
        .iter()
        .flat_map(|table| known(&format!("[{table}]\nno_such_key = 1\n"), &format!("{table}.")))
        .collect();
    let listed = LISTS_OF_TABLES.iter().copied();
    let settings = settings().iter().map(|setting| setting.key).chain(listed);
    assert_eq!(keys, settings.map(str::to_owned).collect());
}

#[test]
fn the_packages_template_names_every_setting_with_its_default() {
    let uncommented: String = TEMPLATE
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line)))
        .collect();
    let table: toml::Table = uncommented.parse().unwrap();
    let keys: BTreeSet<String> = table
        .iter()
        .flat_map(|(outer, inner)| {
            let inner = inner.as_table().expect("the template has tables only");
            inner.keys().map(move |key| format!("{outer}.{key}"))
        })
        .collect();
    assert_eq!(keys, settings().iter().map(|setting| setting.key.to_owned()).collect());
    let written = load(&uncommented, &[]).unwrap();
    assert_eq!(format!("{written:?}"), format!("{:?}", Config::default()));
    assert_eq!(format!("{:?}", load(TEMPLATE, &[]).unwrap()), format!("{written:?}"));
}

#[test]
fn a_redirect_may_not_outlive_the_bytes_it_leads_to() {
    let flags = ["--storage-redirect-expiry-s", "7201", "--gc-grace-s", "7200"];
    let error = load("", &flags).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("storage.redirect_expiry_s") && error.contains("7200"), "{error}");
    load("", &[]).unwrap().check().unwrap();
    let region = "[[regions.region]]\nname = \"a\"\nstorage.redirect_expiry_s = 7201\n";
    load(region, &["--gc-grace-s", "7200"]).unwrap().check().unwrap_err();
}
