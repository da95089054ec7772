//! `make install`: what a package holds, and what an operator's system keeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use longshore_tests::testkit::programs::own_binary;

/// Below DESTDIR, with their modes.
const INSTALLED: &[(&str, u32)] = &[
    ("usr/bin/longshore", 0o755),
    ("usr/bin/longshore-agent", 0o755),
    ("usr/bin/longshore-registry", 0o755),
    ("usr/lib/systemd/system/longshore-agent.service", 0o644),
    ("usr/lib/systemd/system/longshore-registry.service", 0o644),
    ("usr/lib/sysusers.d/longshore-registry.conf", 0o644),
    ("usr/lib/tmpfiles.d/longshore-registry.conf", 0o644),
    ("usr/share/doc/longshore/README.md", 0o644),
    ("usr/share/doc/longshore/LICENSE", 0o644),
    ("usr/share/doc/longshore/agent.toml", 0o644),
    ("usr/share/doc/longshore/hosts.toml", 0o644),
    ("usr/share/doc/longshore/keys.md", 0o644),
    ("usr/share/doc/longshore/metrics.md", 0o644),
    ("usr/share/doc/longshore/registry.toml", 0o644),
    ("etc/longshore/agent.toml", 0o644),
    ("etc/longshore/registry.toml", 0o644),
];

/// The directory whose programs the tests start: a target directory and a profile.
fn built() -> PathBuf {
    own_binary("longshore-registry").unwrap().parent().unwrap().to_owned()
}

fn install(root: &Path, prefix: &str) -> Output {
    let built = built();
    let (target, profile) = (built.parent().unwrap(), built.file_name().unwrap());
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Command::new("make")
        .arg("install")
        .arg(format!("TARGET={}", target.display()))
        .arg(format!("PROFILE={}", profile.display()))
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("PREFIX={prefix}"))
        .current_dir(project)
        .output()
        .unwrap()
}

fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.push(path.strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_package_holds_everything_that_the_units_need_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let made = install(root, "/usr");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut expected: Vec<&str> = INSTALLED.iter().map(|(path, _)| *path).collect();
    expected.sort_unstable();
    assert_eq!(files(root), expected);
    for (path, mode) in INSTALLED {
        let is = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, *mode, "{path}: {is:o}");
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for unit in ["longshore-agent.service", "longshore-registry.service"] {
        let text = |path: PathBuf| fs::read_to_string(path).unwrap();
        let (ours, installed) = (project.join("systemd"), root.join("usr/lib/systemd/system"));
        assert_eq!(text(installed.join(unit)), text(ours.join(unit)));
    }
}

#[test]
fn an_operators_configuration_stays_and_units_follow_the_prefix() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let configuration = root.join("etc/longshore/registry.toml");
    fs::create_dir_all(configuration.parent().unwrap()).unwrap();
    fs::write(&configuration, "# mine\n").unwrap();
    let made = install(root, "/opt/longshore");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(fs::read_to_string(&configuration).unwrap(), "# mine\n");
    assert!(String::from_utf8_lossy(&made.stdout).contains("registry.toml stays as it is"));
    let unit = "opt/longshore/lib/systemd/system/longshore-registry.service";
    let unit = fs::read_to_string(root.join(unit)).unwrap();
    assert!(unit.contains("\nExecStart=/opt/longshore/bin/longshore-registry serve "), "{unit}");
    assert!(!unit.contains("/usr/"), "{unit}");
    assert!(!unit.contains(&root.display().to_string()), "DESTDIR is in no file");

    let relative = install(root, "usr");
    assert!(!relative.status.success(), "a prefix that is not absolute");
}

/// Where the machine has systemd's tools: in a container it may not.
#[test]
fn systemd_takes_the_installed_units_users_and_directories() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    assert!(install(root, "/usr").status.success());
    let run = |tool: &str, more: &[&str]| {
        let mut command = Command::new(tool);
        match command.arg(format!("--root={}", root.display())).args(more).output() {
            Ok(ran) => Some(ran),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                use std::io::Write as _;
                let _ = writeln!(std::io::stderr(), "not tested: {tool} is not on this machine");
                None
            }
            Err(error) => panic!("{tool}: {error}"),
        }
    };
    // What a whole system has beside them.
    for target in ["multi-user", "sysinit", "basic", "shutdown", "network-online", "local-fs"] {
        let path = root.join(format!("usr/lib/systemd/system/{target}.target"));
        fs::write(path, format!("[Unit]\nDescription={target}\n")).unwrap();
    }
    fs::create_dir(root.join("bin")).unwrap();
    fs::copy(own_binary("longshore-registry").unwrap(), root.join("bin/kill")).unwrap();
    for unit in ["longshore-registry.service", "longshore-agent.service"] {
        let Some(verified) = run("systemd-analyze", &["--man=no", "verify", unit]) else { break };
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success() && !said.contains(unit), "{unit}: {said}");
    }
    if let Some(made) = run("systemd-sysusers", &[]) {
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let users = fs::read_to_string(root.join("etc/passwd")).unwrap();
        assert!(users.lines().any(|line| line.starts_with("longshore-registry:")), "{users}");
    }
    if let Some(made) = run("systemd-tmpfiles", &["--create"]) {
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let keys = fs::metadata(root.join("var/lib/longshore-registry-keys")).unwrap();
        assert_eq!(keys.permissions().mode() & 0o777, 0o700);
    }
}
