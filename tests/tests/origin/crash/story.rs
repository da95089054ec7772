//! What a client does to one repository, what it was told, and what may be seen afterwards.

use http::Method;
use reqwest::{RequestBuilder, Url};

use crate::conformance::subject::{Answer, Content, Repository, whole, with_query};

const SMALL: usize = 1000;
/// More than a store takes at once.
const IN_PARTS: usize = 5_250_000;

/// How far something the client asked for has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Not,
    /// And no answer came.
    Once,
    Acknowledged,
}

/// A push, and a delete after it.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    pushed: Asked,
    deleted: Asked,
}

/// One client's content and what it was told of it.
#[derive(Debug)]
pub(super) struct Story {
    chunked: Content,
    /// Where the first chunk ends.
    chunk: usize,
    single: Content,
    config: Content,
    image: Content,
    artifact: Content,
    image_follows: bool,
    told: Told,
}

#[derive(Debug, Default)]
struct Told {
    upload: Option<Url>,
    /// Bytes of the upload that were acknowledged.
    received: usize,
    chunked: Fate,
    single: Fate,
    config: Fate,
    image: Fate,
    tag: Fate,
    artifact: Fate,
}

impl Fate {
    /// Whether it must be there, must not, or either.
    fn expected(self) -> Option<bool> {
        match (self.pushed, self.deleted) {
            (Asked::Not, _) | (_, Asked::Acknowledged) => Some(false),
            (Asked::Acknowledged, Asked::Not) => Some(true),
            _ => None,
        }
    }
}

impl Story {
    /// A push of an image and its signature, then the deletes.
    pub(super) fn of_an_image() -> Self {
        Self::new(SMALL, true)
    }

    /// A blob whose first chunk the store takes in parts.
    pub(super) fn of_a_large_blob() -> Self {
        Self::new(IN_PARTS, false)
    }

    fn new(chunk: usize, image_follows: bool) -> Self {
        let (chunked, single) = (Content::layer(chunk + 1000), Content::layer(500));
        let config = Content::config();
        let image = Content::image(&config, &[&chunked, &single]);
        let artifact = Content::artifact("application/vnd.example.signature", &image);
        let told = Told::default();
        Self { chunked, chunk, single, config, image, artifact, image_follows, told }
    }

    /// To its end, or `None` where it broke off.
    pub(super) async fn run(&mut self, repository: &Repository) -> Option<()> {
        self.push_chunks(repository).await?;
        if !self.image_follows {
            return Some(());
        }
        self.push_rest(repository).await?;
        let delete = |path: String| repository.request(Method::DELETE, &path);
        let told = &mut self.told;
        let artifact = delete(format!("manifests/{}", self.artifact.digest));
        step(&mut [&mut told.artifact.deleted], artifact, 202).await?;
        step(&mut [&mut told.tag.deleted], delete("manifests/v1".to_owned()), 202).await?;
        let image = delete(format!("manifests/{}", self.image.digest));
        step(&mut [&mut told.image.deleted], image, 202).await?;
        let single = delete(format!("blobs/{}", self.single.digest));
        step(&mut [&mut told.single.deleted], single, 202).await
    }

    async fn push_chunks(&mut self, repository: &Repository) -> Option<()> {
        let begun = sent(repository.request(Method::POST, "blobs/uploads/"), 202).await?;
        let upload = begun.location();
        self.told.upload = Some(upload.clone());
        for part in [0..self.chunk, self.chunk..self.chunked.bytes.len()] {
            let range = format!("{}-{}", part.start, part.end - 1);
            let patch = repository.at(Method::PATCH, upload.clone()).header("content-range", range);
            sent(patch.body(self.chunked.bytes[part.clone()].to_vec()), 202).await?;
            self.told.received = part.end;
        }
        let close = repository.at(Method::PUT, with_query(&upload, "digest", &self.chunked.digest));
        step(&mut [&mut self.told.chunked.pushed], close, 201).await
    }

    async fn push_rest(&mut self, repository: &Repository) -> Option<()> {
        let uploads = repository.url("blobs/uploads/");
        let post = |blob: &Content| {
            let post = repository.at(Method::POST, with_query(&uploads, "digest", &blob.digest));
            post.body(blob.bytes.clone())
        };
        let put = |reference: &str, manifest: &Content| {
            let put = repository.request(Method::PUT, &format!("manifests/{reference}"));
            let put = put.header("content-type", &manifest.media_type);
            put.body(manifest.bytes.clone())
        };
        let told = &mut self.told;
        step(&mut [&mut told.single.pushed], post(&self.single), 201).await?;
        step(&mut [&mut told.config.pushed], post(&self.config), 201).await?;
        sent(post(&Content::empty()), 201).await?;
        let image = put("v1", &self.image);
        step(&mut [&mut told.image.pushed, &mut told.tag.pushed], image, 201).await?;
        let artifact = put(&self.artifact.digest, &self.artifact);
        step(&mut [&mut told.artifact.pushed], artifact, 201).await
    }

    /// What was acknowledged reads back whole; what was not is not there, or is there whole.
    pub(super) async fn check(&self, repository: &Repository) {
        let told = &self.told;
        for (blob, fate) in [
            (&self.chunked, told.chunked),
            (&self.single, told.single),
            (&self.config, told.config),
        ] {
            check(repository, &format!("blobs/{}", blob.digest), blob, fate).await;
        }
        let image = format!("manifests/{}", self.image.digest);
        let image = check(repository, &image, &self.image, told.image).await;
        // A tag goes with the manifest that it names.
        let tag_fate = Fate { deleted: later(told.tag.deleted, told.image.deleted), ..told.tag };
        let tag = check(repository, "manifests/v1", &self.image, tag_fate).await;
        assert!(image || !tag, "a tag names a manifest that is not there: {told:?}");
        // Blobs may be deleted beside a manifest that names them; nobody had asked for it so early.
        if (image || tag) && told.single.deleted == Asked::Not {
            for blob in [&self.chunked, &self.single, &self.config] {
                repository.has(blob).await;
            }
        }
        self.check_artifact(repository).await;
        self.check_upload(repository).await;
    }

    async fn check_artifact(&self, repository: &Repository) {
        let path = format!("manifests/{}", self.artifact.digest);
        let there = check(repository, &path, &self.artifact, self.told.artifact).await;
        let list = repository.get(&format!("referrers/{}", self.image.digest)).await.is(200);
        let list = list.json()["manifests"].as_array().unwrap().clone();
        let listed = list.iter().any(|one| one["digest"] == self.artifact.digest);
        assert!(there || !listed, "a referrer is listed that is not there: {:?}", self.told);
        let both = self.told.artifact.expected() == Some(true);
        assert!(listed || !both, "an acknowledged referrer is not listed: {:?}", self.told);
    }

    /// An upload that nobody asked to close goes on behind what was acknowledged.
    async fn check_upload(&self, repository: &Repository) {
        let Some(upload) = &self.told.upload else { return };
        if self.told.chunked.pushed != Asked::Not {
            return;
        }
        let upload = repository.root(upload.path());
        let status = repository.get_url(upload).await.is(204);
        let from = status.last_byte() + usize::from(status.last_byte() > 0);
        assert!(from >= self.told.received, "acknowledged bytes are gone: {:?}", self.told);
        let upload = status.location();
        if from < self.chunked.bytes.len() {
            repository.patch(&upload, from, &self.chunked.bytes[from..]).await.is(202);
        }
        repository.close(&upload, &self.chunked.digest, b"").await.is(201);
        repository.has(&self.chunked).await;
    }
}

/// The one that has come further.
fn later(one: Asked, other: Asked) -> Asked {
    if one == Asked::Acknowledged || other == Asked::Not { one } else { other }
}

/// Whether it is there, which is asserted to be as told; what is there is whole.
async fn check(repository: &Repository, path: &str, content: &Content, fate: Fate) -> bool {
    let got = repository.get(path).await.one_of(&[200, 404]);
    let there = got.status() == 200;
    assert!(!there || got.body == content.bytes, "{path} is there and not whole: {fate:?}");
    assert!(fate.expected().is_none_or(|expected| expected == there), "{path} {there}: {fate:?}");
    there
}

/// The answer with this status; `None` where none came or the registry could not.
async fn sent(request: RequestBuilder, status: u16) -> Option<Answer> {
    let (client, request) = request.build_split();
    let response = client.execute(request.unwrap()).await.ok()?;
    if response.status().is_server_error() {
        return None;
    }
    Some(whole(response).await?.is(status))
}

async fn step(asked: &mut [&mut Asked], request: RequestBuilder, status: u16) -> Option<()> {
    asked.iter_mut().for_each(|asked| **asked = Asked::Once);
    sent(request, status).await?;
    asked.iter_mut().for_each(|asked| **asked = Asked::Acknowledged);
    Some(())
}
