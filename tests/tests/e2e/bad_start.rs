//! Programs that cannot start say why in one line and exit with the status of its kind.

use longshore_tests::testkit::agent::{self, AgentBuild, MIRROR};
use longshore_tests::testkit::command::Finished;
use longshore_tests::testkit::error::Context;
use longshore_tests::testkit::programs::own_binary;
use longshore_tests::testkit::settings::CommandLine;
use longshore_tests::testkit::{
    Agent, AgentOptions, Host, LabError, Rate, Registry, Result, Settings, registry,
};

use crate::harness::{MB, Origin, in_lab};

/// Of bad configuration (sysexits.h: EX_USAGE).
const EXIT_CONFIGURATION: i32 = 64;
/// Port taken, disk unusable (or EX_UNAVAILABLE).
const EXIT_UNUSABLE: [i32; 2] = [1, 69];

/// Runs a program that should end by itself.
async fn end_of(host: &Host, (line, environment): CommandLine) -> Result<Finished> {
    let run = host.command(&line[0]).args(&line[1..]).deadline(std::time::Duration::from_secs(20));
    let run = environment.into_iter().fold(run, |run, (key, value)| run.env(key, value));
    let ended = tokio::task::spawn_blocking(move || run.finish()).await;
    ended.map_err(|failed| LabError::Unexpected(failed.to_string()))?
}

/// One line on standard error that contains `word`.
fn assert_one_line(finished: &Finished, word: &str) {
    let text = finished.stderr_text();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "not one line: {text}");
    assert!(lines[0].contains(word), "{word} is not in: {text}");
}

/// A program with a configuration of its own and nothing in its environment.
fn configured(host: &Host, binary: &str, text: &str, more: &[&str]) -> Result<CommandLine> {
    let path = host.directory().join("broken.toml");
    std::fs::write(&path, text).during(|| path.display().to_string())?;
    let binary = own_binary(binary)?.display().to_string();
    let line = [binary, "--config".to_owned(), path.display().to_string()];
    Ok((line.into_iter().chain(more.iter().map(|&flag| flag.to_owned())).collect(), Vec::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_is_one_line_with_the_key_and_exit_64() {
    in_lab(async |stage| {
        let registry = Registry::start(&stage.lab.host("registry", Rate::UNSHAPED)?).await?;
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        let origin = format!(
            "[origin]\nurl = \"{}\"\nsigning_keys = [\"{}\"]\n",
            registry.url(),
            registry.signing_keys()
        );
        let agents = [
            ("[mirror]\nlisten_adress = \"x\"\n", "mirror.listen_adress"),
            ("[mirror]\nlisten = \"nowhere\"\n", "mirror.listen"),
            ("[mirror]\nopen = \"perhaps\"\n", "mirror.open"),
            ("[store]\nbytes_max = -1\n", "store.bytes_max"),
        ]
        .map(|(text, key)| ("longshore-agent", format!("{origin}{text}"), key));
        let others = [
            ("longshore-agent", "", "origin.url"),
            (
                "longshore-agent",
                "[origin]\nurl = \"http://10.77.0.1:5000\"\n",
                "origin.signing_keys",
            ),
            ("longshore-registry", "[serve]\nlisten = \"nowhere\"\n", "serve.listen"),
            ("longshore-registry", "[serv]\nlisten = \"0.0.0.0:1\"\n", "serv"),
            ("longshore-registry", "[storage]\nurl = \"ftp://x\"\n", "storage.url"),
        ]
        .map(|(binary, text, key)| (binary, text.to_owned(), key));
        for (binary, text, key) in agents.into_iter().chain(others) {
            let finished = end_of(&host, configured(&host, binary, &text, &[])?).await?;
            assert_one_line(&finished, key);
            assert_eq!(finished.code, Some(EXIT_CONFIGURATION), "{binary} with {text:?}");
        }
        let flags = ["--mirror-first-byte-timeout-ms", "soon"];
        let finished =
            end_of(&host, configured(&host, "longshore-agent", &origin, &flags)?).await?;
        assert_one_line(&finished, "mirror");
        assert_eq!(finished.code, Some(EXIT_CONFIGURATION));
        let (line, _) = configured(&host, "longshore-agent", &origin, &[])?;
        let environment = vec![("LONGSHORE_WATCHDOG_TIMEOUT_MS".to_owned(), "never".to_owned())];
        let finished = end_of(&host, (line, environment)).await?;
        assert_one_line(&finished, "watchdog.timeout_ms");
        assert_eq!(finished.code, Some(EXIT_CONFIGURATION));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn toml_that_is_none_and_a_named_file_that_is_missing_are_exit_64() {
    in_lab(async |stage| {
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        for binary in ["longshore-agent", "longshore-registry"] {
            let finished = end_of(&host, configured(&host, binary, "[broken", &[])?).await?;
            assert_one_line(&finished, "broken.toml");
            assert_eq!(finished.code, Some(EXIT_CONFIGURATION), "{binary}");
            let missing = vec![
                own_binary(binary)?.display().to_string(),
                "--config".to_owned(),
                "/nonexistent/longshore.toml".to_owned(),
            ];
            let finished = end_of(&host, (missing, Vec::new())).await?;
            assert_one_line(&finished, "/nonexistent/longshore.toml");
            assert_eq!(finished.code, Some(EXIT_CONFIGURATION), "{binary}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_already_taken_is_one_clear_line() {
    in_lab(async |stage| {
        let host = stage.lab.host("registry", Rate::UNSHAPED)?;
        let first = Registry::start(&host).await?;
        let mut settings = Settings::default();
        // Its own admin port and storage: only the port to serve on is taken.
        let storage = host.directory().join("second").display().to_string();
        settings
            .set("admin.listen", "127.0.0.1:5002")
            .set("storage.url", format!("file://{storage}"));
        let finished = end_of(&host, registry::command(&host, &settings)?).await?;
        assert_one_line(&finished, ":5000");
        assert!(finished.code.is_some_and(|code| EXIT_UNUSABLE.contains(&code)), "{finished:?}");

        let node = stage.lab.host("node1", Rate::UNSHAPED)?;
        let taken = node.namespace().run(tokio::net::TcpListener::bind(MIRROR)).await?;
        let _taken = taken.during(|| MIRROR.to_owned())?;
        let options = AgentOptions::joined(&first);
        let finished = end_of(&node, agent::command(&node, &options)?).await?;
        assert_one_line(&finished, MIRROR);
        assert!(finished.code.is_some_and(|code| EXIT_UNUSABLE.contains(&code)), "{finished:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_used_is_one_clear_line() {
    in_lab(async |stage| {
        let registry = Registry::start(&stage.lab.host("registry", Rate::UNSHAPED)?).await?;
        let host = stage.lab.host("node1", Rate::UNSHAPED)?;
        let file = host.directory().join("a-file");
        std::fs::write(&file, "").during(|| file.display().to_string())?;
        let below = file.join("store").display().to_string();
        let options = AgentOptions::joined(&registry).with("store.path", &below);
        let finished = end_of(&host, agent::command(&host, &options)?).await?;
        assert_one_line(&finished, &below);
        assert!(finished.code.is_some_and(|code| EXIT_UNUSABLE.contains(&code)), "{finished:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_without_its_origin_and_serves_when_it_comes() {
    in_lab(async |stage| {
        let origin = stage.origin(Rate::UNSHAPED, stage.image(6, &[MB]).await?).await?;
        origin.kill_registry().await?;
        // Ready all the same, or this fails.
        let member = origin.node(stage, "node1", Rate::UNSHAPED).await?;
        let registry = Registry::start(origin.registry.host()).await?;
        member.pull_and_run(&Origin { registry, ..origin }).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_on_the_node_does_not_fail_the_pull() {
    in_lab(async |stage| {
        let image = stage.image(13, &[3 * MB, MB]).await?;
        let origin = stage.origin(Rate::UNSHAPED, image).await?;
        let authority = origin.registry.authority();
        let parts = stage.parts().await?;
        let rate = Rate::UNSHAPED;
        let node =
            longshore_tests::testkit::Node::start(&stage.lab, "node1", rate, &parts, &authority)
                .await?;
        let disk = node.host.small_disk("small", 2 * MB)?;
        let options = AgentOptions::joined(&origin.registry).with("store.path", disk.display());
        let agent = Agent::start(&node.host, &options).await?;
        crate::harness::pull(&node, &origin).await?;
        crate::harness::run_check(&node, &origin).await?;
        assert!(agent.metrics().await.is_ok(), "the agent did not survive it");
        Ok(())
    })
    .await;
}

#[test]
fn only_the_build_for_tests_has_hooks() {
    let has_hook = |build: AgentBuild| {
        let binary = build.binary().expect("built");
        let bytes = std::fs::read(binary).expect("readable");
        let hook = b"LONGSHORE_TEST_CORRUPT_UPLOADS";
        bytes.windows(hook.len()).any(|window| window == hook)
    };
    assert!(has_hook(AgentBuild::Hooked));
    assert!(!has_hook(AgentBuild::Product));
}
