//! Immutable tags beside the collection of untagged manifests.

use super::store::Turn;
use super::*;

/// A run takes fewer steps.
const STEPS_MAX: usize = 400;

fn immutable(world: &World) -> Storage {
    world.storage.clone().with_immutable_tags(&["*:v*".parse().unwrap()])
}

async fn collect(world: &World) -> Result<Report, GcError> {
    let options = Options { untagged_after_ms: Some(HOUR_MS), ..World::options() };
    Collector::new(world.storage.clone(), options).run().await
}

/// As the API pushes under an immutable tag: blobs, manifest, tag.
async fn push(world: &World, repository: &RepositoryName, layers: &[Bytes]) -> Digest {
    let begun_ms = world.storage.now_ms();
    for layer in layers {
        world.push_blob(repository, layer).await.unwrap();
    }
    for layer in layers {
        assert!(world.storage.claim_member(repository, &sha256(layer)).await.unwrap());
    }
    let content = manifest_of(layers);
    let digest = world.push_manifest(repository, &content, begun_ms).await.unwrap();
    let size = content.len() as u64;
    let record = TagRecord::new(digest, "m".into(), size, begun_ms, ACTOR.into());
    immutable(world).put_tag(repository, &"v1".parse().unwrap(), &record).await.unwrap();
    digest
}

/// A manifest that no tag names, and whose grace is over at the next run.
async fn untagged(layers: &[Bytes]) -> (World, RepositoryName, Digest) {
    let world = World::new(true);
    let repository: RepositoryName = "team/app".parse().unwrap();
    for layer in layers {
        world.push_blob(&repository, layer).await.unwrap();
    }
    let now_ms = world.storage.now_ms();
    let digest = world.push_manifest(&repository, &manifest_of(layers), now_ms).await.unwrap();
    world.clock.advance(LONG_MS);
    collect(&world).await.unwrap();
    world.clock.advance(LONG_MS);
    (world, repository, digest)
}

fn layers() -> Vec<Bytes> {
    vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]
}

#[tokio::test]
async fn what_an_immutable_tag_names_stays_however_old() {
    let world = World::new(true);
    let repository: RepositoryName = "team/app".parse().unwrap();
    let digest = push(&world, &repository, &layers()).await;
    for _ in 0..6 {
        world.clock.advance(LONG_MS);
        collect(&world).await.unwrap();
    }
    world.check_image(&repository, &digest, "after six runs").await;
    // Without the tag it would have gone.
    let (world, repository, digest) = untagged(&layers()).await;
    collect(&world).await.unwrap();
    assert!(world.storage.manifest(&repository, &digest).await.unwrap().is_none());
}

/// The push begins at each step of the run that would delete.
#[tokio::test]
async fn a_push_of_an_immutable_tag_at_any_step_of_a_run_keeps_all_of_its_image() {
    let mut latest = 0;
    for step in 0..STEPS_MAX {
        let (world, repository, old) = untagged(&layers()).await;
        world.store.take_turns(true);
        let pushed = async {
            for _ in 0..step {
                Turn::default().await;
            }
            let before = world.storage.manifest(&repository, &old).await.unwrap().is_some();
            (before, push(&world, &repository, &layers()).await)
        };
        let (run, (before, digest)) = tokio::join!(collect(&world), pushed);
        run.unwrap();
        assert_eq!(digest, old);
        world.store.take_turns(false);
        let why = format!("pushed at step {step}");
        world.check_image(&repository, &digest, &why).await;
        for _ in 0..4 {
            world.clock.advance(LONG_MS);
            collect(&world).await.unwrap();
            world.check_image(&repository, &digest, &why).await;
        }
        let tag = world.storage.tag(&repository, &"v1".parse().unwrap()).await.unwrap();
        assert_eq!(tag.map(|tag| tag.digest), Some(digest), "{why}");
        if !before {
            latest += 1;
        }
        // Some steps behind the deletion there is nothing new to see.
        if latest > 20 {
            assert!(step > 25, "the run deletes within {step} steps");
            return;
        }
    }
    panic!("nothing was deleted within {STEPS_MAX} steps");
}
