//! Clients as people have them, against the program: skopeo and oras, where nobody is asked who they
//! are and where everybody is.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_proto::{Algorithm, Digest, media_type};
use longshore_tests::testkit::command::Run;
use longshore_tests::testkit::error::Context as _;
use longshore_tests::testkit::programs::own_binary;
use longshore_tests::testkit::{
    Backend, Cache, LabError, Loopback, Origin, Programs, Result, Settings,
};
use serde_json::{Value, json};

use crate::harness::{Stage, on};
use crate::layout::Layout;

const PASSWORD: &str = "correct-horse-battery";

/// A registry, and the file in which clients keep who they are.
struct Front {
    origin: Origin,
    credentials: PathBuf,
}

impl Front {
    /// Open to everybody.
    async fn open(stage: &Stage) -> Result<Self> {
        let origin = Origin::start(&stage.loopback, &stage.store).await?;
        Self::with(&stage.loopback, origin, json!({}))
    }

    /// Where one has to be `alice`.
    async fn guarded(stage: &Stage) -> Result<Self> {
        let users = stage.loopback.directory().join("users");
        let add = Run::new(own_binary("longshore-registry")?).args(["users", "add", "alice"]);
        add.arg("--file").arg(&users).stdin(format!("{PASSWORD}\n")).run_async().await?;
        let mut settings = Settings::default();
        settings.set("auth.users_file", users.display());
        let origin = Origin::start_with(&stage.loopback, &stage.store, "registry", &settings);
        let origin = origin.await?;
        let login = STANDARD.encode(format!("alice:{PASSWORD}"));
        let known = json!({ origin.address().to_string(): { "auth": login } });
        Self::with(&stage.loopback, origin, known)
    }

    fn with(loopback: &Loopback, origin: Origin, known: Value) -> Result<Self> {
        let credentials = loopback.directory().join("credentials.json");
        let text = json!({ "auths": known }).to_string();
        fs::write(&credentials, text).during(|| credentials.display().to_string())?;
        Ok(Self { origin, credentials })
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.origin.address())
    }

    fn docker(&self, name: &str) -> String {
        format!("docker://{}", self.image(name))
    }

    async fn skopeo(&self, verb: &str, flags: &[&str]) -> Result<String> {
        let run = Run::new("skopeo").arg(verb).arg("--authfile").arg(&self.credentials);
        run.args(flags).run_async().await
    }

    /// Between this registry and a directory, or within it, with all platforms.
    async fn copy(&self, from: &str, to: &str, flags: &[&str]) -> Result<String> {
        let clear = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false"];
        self.skopeo("copy", &[clear.as_slice(), flags, &[from, to]].concat()).await
    }

    /// A question to the registry about one image.
    async fn ask(&self, verb: &str, flags: &[&str], name: &str) -> Result<String> {
        let image = self.docker(name);
        let flags = [["--tls-verify=false"].as_slice(), flags, &[&image]].concat();
        self.skopeo(verb, &flags).await
    }

    async fn mounted(&self) -> Result<u64> {
        let metrics = self.origin.metrics().await?;
        Ok(metrics.sum_with("longshore_registry_uploads_total", "outcome", "mounted"))
    }
}

async fn skopeo_copies_and_deletes(front: Front, stage: &Stage) -> Result<()> {
    let directory = stage.loopback.directory();
    let (layout, pulled) = (Layout::write(directory.join("pushed"))?, directory.join("pulled"));
    // First, or it would take the layers that are there already, as they are.
    let zstd = ["--dest-compress", "--dest-compress-format", "zstd"];
    let compressed = front.docker("zstd/app:v1");
    front.copy(&layout.name(), &compressed, &zstd).await?;
    let back = format!("dir:{}", directory.join("zstd").display());
    front.copy(&compressed, &back, &[]).await?;
    let raw = front.ask("inspect", &["--raw"], "zstd/app:v1").await?;
    assert_ne!(Digest::of(Algorithm::Sha256, raw.as_bytes()), layout.index);

    let team = front.docker("team/app:v1");
    front.copy(&layout.name(), &team, &["--preserve-digests"]).await?;
    let raw = front.ask("inspect", &["--raw"], "team/app:v1").await?;
    assert_eq!(Digest::of(Algorithm::Sha256, raw.as_bytes()), layout.index);
    let docker = front.docker("team/app:docker");
    front.copy(&layout.name(), &docker, &["--format", "v2s2"]).await?;
    let raw = front.ask("inspect", &["--raw"], "team/app:docker").await?;
    assert!(raw.contains(media_type::DOCKER_LIST), "{raw}");

    // Within one registry layers are mounted, which takes a token for both repositories.
    let before = front.mounted().await?;
    front.copy(&team, &front.docker("other/app:v1"), &["--preserve-digests"]).await?;
    // It uploads the two configurations, which it may have changed.
    assert_eq!(front.mounted().await? - before, layout.blobs.len() as u64 - 2);
    let to = format!("oci:{}", pulled.display());
    front.copy(&front.docker("other/app:v1"), &to, &["--preserve-digests"]).await?;
    layout.assert_pulled(&pulled)?;

    let tags = |text: String| json_of(&text).map(|found| found["Tags"].clone());
    let listed = front.ask("list-tags", &[], "team/app").await?;
    assert_eq!(tags(listed)?, json!(["docker", "v1"]));
    front.ask("delete", &[], "team/app:v1").await?;
    assert!(front.ask("inspect", &["--raw"], "team/app:v1").await.is_err());
    let listed = front.ask("list-tags", &[], "team/app").await?;
    assert_eq!(tags(listed)?, json!(["docker"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_every_form_and_deletes() {
    on(Backend::Directory, async |stage| {
        skopeo_copies_and_deletes(Front::open(stage).await?, stage).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_every_form_and_deletes_with_a_password() {
    on(Backend::Directory, async |stage| {
        skopeo_copies_and_deletes(Front::guarded(stage).await?, stage).await
    })
    .await;
}

/// oras in a directory of its own, with the registry's credentials.
struct Oras {
    program: PathBuf,
    directory: PathBuf,
    credentials: PathBuf,
}

impl Oras {
    async fn new(front: &Front, directory: &Path) -> Result<Self> {
        let programs = Programs::new(Cache::open()?);
        let program = tokio::task::spawn_blocking(move || programs.oras()).await;
        let program = program.map_err(|failed| LabError::Unexpected(failed.to_string()))??;
        let directory = directory.join("oras");
        fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
        let credentials = front.credentials.clone();
        Ok(Self { program, directory, credentials })
    }

    async fn run(&self, words: &[&str]) -> Result<String> {
        let run = Run::new(&self.program).within(&self.directory).args(words);
        let credentials = self.credentials.display().to_string();
        let run = match words[0] {
            "cp" => run
                .args(["--from-plain-http", "--to-plain-http"])
                .args(["--from-registry-config", &credentials])
                .args(["--to-registry-config", &credentials]),
            _ => run.args(["--plain-http", "--registry-config", &credentials]),
        };
        run.run_async().await
    }

    /// The types of what refers to an image.
    async fn referrers(&self, image: &str) -> Result<Vec<Value>> {
        let found = json_of(&self.run(&["discover", "--format", "json", image]).await?)?;
        let types = found["manifests"].as_array().cloned().unwrap_or_default();
        Ok(types.iter().map(|one| one["artifactType"].clone()).collect())
    }
}

async fn oras_pushes_and_attaches(front: Front, stage: &Stage) -> Result<()> {
    let oras = Oras::new(&front, stage.loopback.directory()).await?;
    let file = oras.directory.join("file.txt");
    fs::write(&file, "a file").during(|| file.display().to_string())?;
    let (image, copied) = (front.image("art/one:v1"), front.image("art/two:v1"));
    let content = "file.txt:text/plain";
    oras.run(&["push", "--artifact-type", "application/x.test", &image, content]).await?;
    oras.run(&["attach", "--artifact-type", "application/x.sbom", &image, content]).await?;
    assert_eq!(oras.referrers(&image).await?, ["application/x.sbom"]);

    oras.run(&["cp", "-r", &image, &format!("{copied},v2")]).await?;
    oras.run(&["tag", &copied, "v3"]).await?;
    let tags = oras.run(&["repo", "tags", &front.image("art/two")]).await?;
    assert_eq!(tags.lines().collect::<Vec<_>>(), ["v1", "v2", "v3"]);
    let repositories = oras.run(&["repo", "ls", &front.origin.address().to_string()]).await?;
    assert_eq!(repositories.lines().collect::<Vec<_>>(), ["art/one", "art/two"]);
    assert_eq!(oras.referrers(&copied).await?, ["application/x.sbom"]);

    oras.run(&["manifest", "delete", "--force", &image]).await?;
    assert!(oras.run(&["pull", "--output", "gone", &image]).await.is_err());
    oras.run(&["pull", "--output", "pulled", &copied]).await?;
    let pulled = oras.directory.join("pulled/file.txt");
    let pulled = fs::read_to_string(&pulled).during(|| pulled.display().to_string())?;
    assert_eq!(pulled, "a file");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_attaches_copies_and_deletes() {
    on(Backend::Directory, async |stage| {
        oras_pushes_and_attaches(Front::open(stage).await?, stage).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_attaches_copies_and_deletes_with_a_password() {
    on(Backend::Directory, async |stage| {
        oras_pushes_and_attaches(Front::guarded(stage).await?, stage).await
    })
    .await;
}

fn json_of(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|failed| LabError::Unexpected(format!("{failed}: {text}")))
}
