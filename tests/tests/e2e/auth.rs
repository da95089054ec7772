//! A registry that asks everybody who they are: a node's containerd pulls through its agent, which
//! joined by a token; a user logs in and pushes; whoever is nobody gets nothing.

use std::fs;
use std::path::Path;

use longshore_registry::auth::users;
use longshore_tests::image::layout::REFERENCE;
use longshore_tests::image::{Image, push};
use longshore_tests::testkit::error::Context;
use longshore_tests::testkit::lab::require_tool;
use longshore_tests::testkit::{
    Agent, AgentOptions, Host, LabError, Node, Rate, Registry, Result, Settings,
};

use crate::harness::{MB, Member, Origin, Stage, in_lab};

const USER: &str = "alice";
const PASSWORD: &str = "a-password-of-this-lab";
const JOIN_TOKEN: &str = "a-join-token-of-this-lab";
/// Alice has one project, and nodes pull it.
const RULES: &str = r#"
[[auth.rule]]
subjects = ["user:alice"]
repositories = ["team/*"]
actions = ["*"]

[[auth.rule]]
subjects = ["node"]
repositories = ["team/*"]
actions = ["pull"]
"#;

async fn registry(host: &Host) -> Result<Registry> {
    let (users_file, tokens) = (host.directory().join("users"), host.directory().join("joins"));
    users::put(&users_file, USER, PASSWORD)
        .map_err(|failed| LabError::Unexpected(failed.to_string()))?;
    fs::write(&tokens, format!("{JOIN_TOKEN}\n")).during(|| tokens.display().to_string())?;
    let mut settings = Settings::default();
    settings.set("auth.users_file", users_file.display());
    settings.set("join.token_file", tokens.display());
    Registry::start_from(host, &settings, RULES).await
}

async fn skopeo_login(host: &Host, registry: &Registry, authfile: &Path) -> Result<()> {
    let run = host.command(require_tool("skopeo", "deps")?);
    let run = run.args(["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, "--authfile"]);
    run.arg(authfile).arg(registry.authority()).run_async().await.map(|_| ())
}

async fn push_as(host: &Host, authfile: &Path, image: &Image, reference: &str) -> Result<()> {
    let run = host.command(require_tool("skopeo", "deps")?);
    run.args(["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"])
        .arg("--authfile")
        .arg(authfile)
        .arg(format!("oci:{}:{REFERENCE}", image.layout.display()))
        .arg(format!("docker://{reference}"))
        .run_async()
        .await
        .map(|_| ())
}

async fn node(stage: &Stage, role: &str, registry: &Registry) -> Result<Node> {
    let (parts, authority) = (stage.parts().await?, registry.authority());
    Node::start(&stage.lab, role, Rate::UNSHAPED, &parts, &authority).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_pushes_after_a_login_a_joined_node_pulls_and_nobody_else_does() {
    in_lab(async |stage| {
        let host = stage.lab.host("registry", Rate::UNSHAPED)?;
        let registry = registry(&host).await?;
        assert_eq!(host.get(&format!("{}/v2/", registry.url())).await?.0, 401);
        let image = stage.image(15, &[3 * MB, MB]).await?;
        let reference = format!("{}/team/app:1", registry.authority());
        let refused = push(&host, &image, &reference).await;
        assert!(refused.is_err(), "nobody in particular has pushed");

        let authfile = host.directory().join("auth.json");
        skopeo_login(&host, &registry, &authfile).await?;
        push_as(&host, &authfile, &image, &reference).await?;
        let elsewhere = format!("{}/other/app:1", registry.authority());
        let denied = push_as(&host, &authfile, &image, &elsewhere).await;
        assert!(denied.is_err(), "no rule gives alice this project");

        let with_agent = node(stage, "node1", &registry).await?;
        let token = with_agent.host.directory().join("join-token");
        fs::write(&token, JOIN_TOKEN).during(|| token.display().to_string())?;
        let options = AgentOptions::joined(&registry).with("origin.token_file", token.display());
        let agent = Agent::start(&with_agent.host, &options).await?;
        let origin = Origin { registry, image, reference };
        let member = Member { node: with_agent, agent };
        member.pull_and_run(&origin).await?;
        let bytes = member.agent.metrics().await?.sum("longshore_origin_received_bytes_total");
        assert!(bytes >= origin.image.bytes(), "the agent fetched {bytes} bytes");

        // containerd by itself is nobody.
        let without_agent = node(stage, "node2", &origin.registry).await?;
        let pulled = without_agent.containerd.cri().pull(&origin.reference).await;
        let said = pulled.map(|_| ()).map_err(|failed| failed.to_string());
        assert!(said.as_ref().is_err_and(|said| said.contains("401")), "{said:?}");
        Ok(())
    })
    .await;
}
