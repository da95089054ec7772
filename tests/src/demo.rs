//! The demo: a fleet pulls a real image at the same moment, with Longshore and without.
//!
//! `options` says what is measured, `fleet` sets the machines up, `measure` pulls and samples the
//! links, `figures` turns that into numbers, `report` prints and writes them. Rules of the
//! measurement: the clock starts when the PullImage calls are sent and no store holds any of the
//! image; a node's wire time ends at the last sample in which its receive counter moved more than
//! 5 % of its link's rate; unpacking is the rest until PullImage returns. The same rules hold for
//! both runs. It leaves nothing behind but its figures and the cache.

mod figures;
mod fleet;
mod measure;
mod options;
mod progress;
mod report;

use crate::testkit::slots::Slot;
use crate::testkit::{Agent, Cache, Programs, Result};

pub use figures::Figures;
pub use options::Options;

use fleet::Fleet;
use measure::{Measured, pull_everywhere};
use progress::{Progress, say};

/// Runs both pulls and reports; the figures say whether everything was right.
pub async fn run(options: &Options) -> Result<Figures> {
    let programs = Programs::new(Cache::open()?);
    say("waiting until no other lab runs");
    let _machine = Slot::all(programs.cache()).await?;
    let image = fleet::image(&programs, options).await?;
    report::announce(options, &image);

    say("starting the registry, pushing the image with skopeo, starting the nodes");
    let fleet = Fleet::start(&programs, options, &image).await?;
    say(&format!(
        "{} and an agent run on each of {} nodes",
        fleet.containerd_version(),
        options.nodes
    ));

    say("pulling on all nodes at once, with Longshore");
    let agents = fleet.start_agents().await?;
    let with = measured(&fleet, options, &image).await?;
    let sources = figures::sources(&agents).await?;
    say("running a container from the image on each node");
    let containers = fleet.run_containers(&image).await;
    stop(agents).await?;

    say("pulling on all nodes at once, without Longshore");
    let fleet = fleet.emptied().await?;
    let without = measured(&fleet, options, &image).await?;

    let figures = Figures::of(options, &image, &with, &sources, &containers, &without);
    crate::figures::write(&figures, &options.figures)?;
    report::print(&figures);
    fleet.destroy().await?;
    Ok(figures)
}

async fn measured(
    fleet: &Fleet,
    options: &Options,
    image: &crate::image::Image,
) -> Result<Measured> {
    let mut progress = Progress::start(options.nodes, image.bytes());
    pull_everywhere(fleet, options, &mut progress).await
}

async fn stop(agents: Vec<Agent>) -> Result<()> {
    for agent in agents {
        agent.stop().await?;
    }
    Ok(())
}
