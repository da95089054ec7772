//! The process dies at every single write of an outage and of the catching up after it. Another
//! one then brings everything that was acknowledged to the primary.

use super::*;

/// More writes than the story has.
const WRITES_MAX: usize = 300;

/// What clients were told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    blob: bool,
    first: bool,
    second: bool,
    /// The older blob is no longer a member.
    removed: bool,
}

/// Written before, a push and a removal without the primary, and the catching up.
async fn story(world: &World, process: &Process, told: &mut Told) -> Result<(), UploadError> {
    world.eu.set(Mode::Failing);
    process.notice().await;
    push_blob(process.storage(), &content(100)).await?;
    told.blob = true;
    push_tag(process.storage(), "first", 2).await?;
    told.first = true;
    process.storage().remove_member(&repository(), &sha256(&content(10))).await?;
    told.removed = true;
    push_tag(process.storage(), "second", 3).await?;
    told.second = true;
    world.eu.set(Mode::Up);
    // Long enough to catch up; a dead machine does nothing any more.
    for _ in 0..60 {
        process.pass().await;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_in_an_outage_or_while_catching_up_loses_nothing() {
    for done in [false, true] {
        for dies_at in 0..WRITES_MAX {
            let world = World::new();
            let before = world.process().await;
            push_blob(before.storage(), &content(10)).await.unwrap();
            push_tag(before.storage(), "before", 1).await.unwrap();
            before.mend().await;
            drop(before);
            let machine = Machine::dying(usize::MAX, done);
            let process = world.process_on(&machine).await;
            machine.die_after(dies_at);
            let mut told = Told::default();
            let ended = story(&world, &process, &mut told).await;
            drop(process);
            check(&world, told, dies_at).await;
            if !machine.died() {
                ended.unwrap();
                assert!(told.second && dies_at > 30, "the story has {dies_at} writes");
                break;
            }
            assert!(dies_at + 1 < WRITES_MAX, "the story has more than {WRITES_MAX} writes");
        }
    }
}

async fn check(world: &World, told: Told, dies_at: usize) {
    world.eu.set(Mode::Up);
    let survivor = world.process().await;
    survivor.recover().await;
    // As old as the dead one's entries must be before they count.
    let patience = std::time::Instant::now();
    while survivor.home().journal.pending() > 0 {
        survivor.pass().await;
        assert!(patience.elapsed() < Duration::from_secs(20), "write {dies_at}");
    }
    let (primary, at) = (world.primary(), format!("write {dies_at}, {told:?}"));
    for storage in [survivor.storage(), &primary] {
        let tag = tag_of(storage).await.expect("a tag is never lost");
        let [before, first, second] = ["before", "first", "second"].map(|text| manifest(text).0);
        let expected: &[Digest] = match told {
            Told { second: true, .. } => &[second],
            Told { first: true, .. } => &[first, second],
            _ => &[before, first],
        };
        assert!(expected.contains(&tag), "{at}");
        assert!(storage.manifest(&repository(), &tag).await.unwrap().is_some(), "{at}");
        let layer = content(100);
        if storage.is_member(&repository(), &sha256(&layer)).await.unwrap() {
            assert!(read_blob(storage, &sha256(&layer)).await == layer, "{at}");
        } else {
            assert!(!told.blob, "{at}");
        }
        let old = storage.is_member(&repository(), &sha256(&content(10))).await.unwrap();
        assert!(!(old && told.removed), "an acknowledged removal is undone: {at}");
        assert!(old || told.first, "removed though nobody asked: {at}");
    }
}
