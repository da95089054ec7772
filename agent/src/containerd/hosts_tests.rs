//! hosts.toml as containerd reads it, and whose file may be touched.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mirror() -> MirrorHost {
    MirrorHost {
        address: "127.0.0.1:777".parse().unwrap(),
        secret: Some(MirrorSecret::generate()),
        origin: "http://10.77.0.1:5000".parse().unwrap(),
    }
}

fn hosts(directory: &Path, registries: &[&str]) -> Hosts {
    let registries = registries.iter().map(|text| text.parse().unwrap());
    Hosts::new(directory.to_owned(), registries.collect())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_the_mirror_first_and_the_origin_as_server() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = mirror();
    let outcome = hosts(directory.path(), &["10.77.0.1:5000"]).write(&mirror).unwrap();
    assert_eq!((outcome.written.len(), outcome.foreign.len()), (1, 0));
    assert_eq!(names(directory.path()), ["10.77.0.1_5000_"]);
    let path = directory.path().join("10.77.0.1_5000_/hosts.toml");
    let text = fs::read_to_string(&path).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    assert_eq!(parsed["server"].as_str(), Some("http://10.77.0.1:5000"));
    let host = &parsed["host"]["http://127.0.0.1:777"];
    assert_eq!(host["capabilities"].as_array().unwrap().len(), 2);
    let authorization = host["header"]["Authorization"].as_str().unwrap();
    assert_eq!(authorization, mirror.secret.unwrap().authorization());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_open_mirror_needs_no_header_and_every_address_is_reached_on_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let open = MirrorHost { secret: None, address: "0.0.0.0:7777".parse().unwrap(), ..mirror() };
    hosts(directory.path(), &["10.77.0.1:5000"]).write(&open).unwrap();
    let text = fs::read_to_string(directory.path().join("10.77.0.1_5000_/hosts.toml")).unwrap();
    assert!(text.contains("http://127.0.0.1:7777") && !text.contains("Authorization"), "{text}");
}

#[test]
fn another_name_of_the_origin_falls_back_to_that_name() {
    let directory = tempfile::tempdir().unwrap();
    hosts(directory.path(), &["registry.example:5000", "_default"]).write(&mirror()).unwrap();
    let read = |name| fs::read_to_string(directory.path().join(name).join("hosts.toml")).unwrap();
    let named = read("registry.example_5000_");
    assert!(named.contains("server = \"http://registry.example:5000\"\n"), "{named}");
    let default = read("_default");
    assert!(!default.contains("server"), "{default}");
}

#[test]
fn a_fronted_registry_falls_back_to_the_origin_and_then_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = hosts(directory.path(), &["docker.io=hub"]).write(&mirror()).unwrap();
    assert_eq!(outcome.written, ["docker.io".parse().unwrap()]);
    let text = fs::read_to_string(directory.path().join("docker.io/hosts.toml")).unwrap();
    let parsed: toml::Table = text.parse().unwrap();
    assert!(!parsed.contains_key("server"), "{text}");
    let (mirror, origin) = (text.find("http://127.0.0.1:777"), text.find("http://10.77.0.1:5000"));
    assert!(mirror.is_some() && mirror < origin, "{text}");
    let origin = &parsed["host"]["http://10.77.0.1:5000"];
    assert_eq!(origin["capabilities"].as_array().unwrap().len(), 2);
    assert!(origin.get("header").is_none(), "the mirror's secret is for the mirror: {text}");
}

#[test]
fn somebody_elses_file_is_neither_touched_nor_shadowed() {
    for spelling in ["10.77.0.1_5000_", "10.77.0.1:5000"] {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join(spelling);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("hosts.toml"), "server = \"https://mine\"\n").unwrap();
        let outcome =
            hosts(directory.path(), &["10.77.0.1:5000", "docker.io"]).write(&mirror()).unwrap();
        assert_eq!(outcome.foreign[0].1, home.join("hosts.toml"));
        assert_eq!(outcome.written, ["docker.io".parse().unwrap()]);
        assert_eq!(remove_ours(directory.path()).unwrap(), 1);
        assert_eq!(names(directory.path()), [spelling]);
        assert!(home.join("hosts.toml").exists());
    }
}

#[test]
fn what_was_written_goes_whole_whatever_the_configuration_says_by_then() {
    let directory = tempfile::tempdir().unwrap();
    hosts(directory.path(), &["10.77.0.1:5000", "docker.io"]).write(&mirror()).unwrap();
    fs::create_dir(directory.path().join(".longshore-0")).unwrap();
    assert_eq!(remove_ours(directory.path()).unwrap(), 2);
    assert_eq!(names(directory.path()), Vec::<String>::new());
    assert_eq!(remove_ours(directory.path()).unwrap(), 0);
    assert_eq!(remove_ours(&directory.path().join("absent")).unwrap(), 0);
}

#[test]
fn an_operators_certificates_beside_the_file_stay() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("10.77.0.1_5000_");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("ca.crt"), "x").unwrap();
    hosts(directory.path(), &["10.77.0.1:5000"]).write(&mirror()).unwrap();
    assert_eq!(names(&home), ["ca.crt", "hosts.toml"]);
    remove_ours(directory.path()).unwrap();
    assert_eq!(names(&home), ["ca.crt"]);
}

#[test]
fn writing_again_replaces_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = hosts(directory.path(), &["10.77.0.1:5000"]);
    hosts.write(&mirror()).unwrap();
    let second = mirror();
    hosts.write(&second).unwrap();
    let text = fs::read_to_string(directory.path().join("10.77.0.1_5000_/hosts.toml")).unwrap();
    assert!(text.contains(second.secret.unwrap().expose()));
    assert_eq!(names(directory.path()), ["10.77.0.1_5000_"]);
}

#[test]
fn a_directory_that_can_not_be_written_is_named_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = hosts(&file, &["10.77.0.1:5000"]).write(&mirror()).unwrap_err().to_string();
    assert!(error.starts_with("containerd.hosts_dir: "), "{error}");
}

#[test]
fn the_packaged_example_is_what_is_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/hosts.toml");
    let secret = MirrorSecret::generate();
    let example = fs::read_to_string(path).unwrap().replace("SECRET", secret.expose());
    let mirror = MirrorHost { secret: Some(secret), ..mirror() };
    assert_eq!(example, text(&"10.77.0.1:5000".parse().unwrap(), &mirror));
}
