//! Charges and slots, on memory and on a local directory.

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use super::*;
use crate::storage::{Charge, Holding, Project, Released, Slot};

/// Runs a story on every kind of store.
async fn on_each(story: impl AsyncFn(&Storage)) {
    let key = Arc::new(SigningKey::generate().0);
    story(&storage(Arc::new(InMemory::new()), &key)).await;
    let directory = tempfile::tempdir().unwrap();
    let local = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
    story(&storage(Arc::new(local), &key)).await;
}

fn project(name: &str) -> Project {
    name.parse().unwrap()
}

fn charge(content: &[u8]) -> Charge {
    Charge { digest: sha256(content), size: content.len() as u64 }
}

async fn charges(storage: &Storage, of: &Project) -> Vec<Charge> {
    let mut charges: Vec<Charge> = storage.charges(of).try_collect().await.unwrap();
    charges.sort();
    charges
}

fn slot(number: u64, bytes: u64) -> Slot {
    Slot { number, instance: "i".into(), bytes, granted_total: 7, expires_at_ms: 9 }
}

#[tokio::test]
async fn a_project_pays_once_and_no_other_pays_with_it() {
    on_each(async |storage| {
        let (team, other) = (project("team"), project("team-b"));
        assert_eq!(storage.charged_projects().await.unwrap(), []);
        assert_eq!(charges(storage, &team).await, []);
        assert!(storage.create_charge(&team, &charge(b"a")).await.unwrap());
        assert!(!storage.create_charge(&team, &charge(b"a")).await.unwrap());
        assert!(storage.create_charge(&team, &charge(b"bb")).await.unwrap());
        assert!(storage.create_charge(&other, &charge(b"a")).await.unwrap());
        let mut expected = [charge(b"a"), charge(b"bb")];
        expected.sort();
        assert_eq!(charges(storage, &team).await, expected);
        assert_eq!(charges(storage, &other).await, [charge(b"a")]);
        assert!(storage.has_charge(&team, &charge(b"bb")).await.unwrap());
        assert!(!storage.has_charge(&other, &charge(b"bb")).await.unwrap());
        assert_eq!(storage.charged_projects().await.unwrap(), [team, other]);
    })
    .await;
}

#[tokio::test]
async fn a_charge_is_released_when_the_last_member_of_the_project_has_gone() {
    on_each(async |storage| {
        let content = content(10);
        let digest = push(storage, &content).await;
        let pointer = storage.pointer(&digest).await.unwrap().unwrap();
        let namesake: RepositoryName = "team".parse().unwrap();
        let stranger: RepositoryName = "team-b/app".parse().unwrap();
        storage.add_member(&namesake, &digest, &pointer).await.unwrap();
        storage.add_member(&stranger, &digest, &pointer).await.unwrap();
        let (team, paid) = (project("team"), charge(&content));
        storage.create_charge(&team, &paid).await.unwrap();
        for repository in [repository(), namesake] {
            assert_eq!(storage.release_charge(&team, &paid).await.unwrap(), Released::Held);
            assert!(storage.has_charge(&team, &paid).await.unwrap());
            storage.remove_member(&repository, &digest).await.unwrap();
        }
        assert_eq!(storage.release_charge(&team, &paid).await.unwrap(), Released::Gone);
        assert!(!storage.has_charge(&team, &paid).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_manifest_holds_its_charge_in_each_repository() {
    on_each(async |storage| {
        let (digest, stored) = manifest("{}");
        let (team, paid) = (project("team"), charge(b"{}"));
        storage.create_charge(&team, &paid).await.unwrap();
        for name in ["team", "team/app"] {
            let name: RepositoryName = name.parse().unwrap();
            storage.put_manifest(&name, &digest, &stored).await.unwrap();
            storage.add_repository(&name).await.unwrap();
            assert_eq!(storage.release_charge(&team, &paid).await.unwrap(), Released::Held);
            storage.delete_manifest(&name, &digest).await.unwrap();
        }
        assert_eq!(storage.release_charge(&team, &paid).await.unwrap(), Released::Gone);
    })
    .await;
}

#[tokio::test]
async fn holdings_are_what_the_repositories_keys_say() {
    on_each(async |storage| {
        let content = content(10);
        let blob = push(storage, &content).await;
        let (digest, stored) = manifest("{}");
        let namesake: RepositoryName = "team".parse().unwrap();
        storage.put_manifest(&namesake, &digest, &stored).await.unwrap();
        storage.put_tag(&namesake, &"v1".parse().unwrap(), &tag_record(digest)).await.unwrap();
        let stranger: RepositoryName = "team-b".parse().unwrap();
        storage.put_manifest(&stranger, &digest, &stored).await.unwrap();
        let mut found: Vec<Holding> =
            storage.holdings(&project("team")).try_collect().await.unwrap();
        found.sort_by_key(|holding| holding.is_manifest);
        let blob = Holding { repository: repository(), digest: blob, is_manifest: false };
        let manifest = Holding { repository: namesake, digest, is_manifest: true };
        assert_eq!(found, [blob.clone(), manifest.clone()]);
        assert_eq!(storage.size_of(&blob).await.unwrap(), Some(10));
        assert_eq!(storage.size_of(&manifest).await.unwrap(), Some(2));
    })
    .await;
}

#[tokio::test]
async fn of_two_that_take_one_slot_one_gets_it() {
    on_each(async |storage| {
        let team = project("team");
        assert_eq!(storage.slots(&team).await.unwrap(), []);
        assert!(storage.create_slot(&team, &slot(1, 10)).await.unwrap());
        assert!(!storage.create_slot(&team, &slot(1, 20)).await.unwrap());
        for number in 2..=11 {
            assert!(storage.create_slot(&team, &slot(number, number)).await.unwrap());
        }
        storage.shrink_slot(&team, &slot(11, 0)).await.unwrap();
        storage.delete_slot(&team, 1).await.unwrap();
        let mut expected: Vec<Slot> = (2..=10).map(|number| slot(number, number)).collect();
        expected.push(slot(11, 0));
        assert_eq!(storage.slots(&team).await.unwrap(), expected);
        assert_eq!(storage.slots(&project("team-b")).await.unwrap(), []);
    })
    .await;
}
