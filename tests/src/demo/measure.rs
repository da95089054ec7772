//! Pulls on all nodes at the same moment and samples the links while they do.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use super::options::Options;
use super::progress::Progress;
use crate::testkit::cri::PulledImage;
use crate::testkit::{Counter, Host, Result};

/// How often the links' counters are read.
const PERIOD: Duration = Duration::from_millis(100);
/// A sample with less than this share of the link's rate is not the image's arrival.
const BUSY_SHARE: f64 = 0.05;

/// What one run of pulls on all nodes showed.
#[derive(Debug)]
pub(super) struct Measured {
    /// In the nodes' order.
    pub(super) nodes: Vec<NodePull>,
    /// Sent by the registry's link until the last pull returned, headers included.
    pub(super) registry_sent: u64,
}

/// One node's pull.
#[derive(Debug)]
pub(super) struct NodePull {
    /// What PullImage returned, or why it failed.
    pub(super) image: Result<PulledImage, String>,
    /// From the clock's start until PullImage returned.
    pub(super) ready_seconds: f64,
    /// From the clock's start until the image's bytes had arrived.
    pub(super) wire_seconds: f64,
    /// Received by the node's link until the last pull returned, headers included.
    pub(super) received: u64,
}

/// All links at one moment.
#[derive(Debug)]
struct Sample {
    seconds: f64,
    counters: Vec<Counter>,
}

/// Sends PullImage to all nodes, and returns when all have answered.
pub(super) async fn pull_everywhere(
    fleet: &Fleet,
    options: &Options,
    progress: &mut Progress,
) -> Result<Measured> {
    let (hosts, name) = (fleet.hosts(), fleet.image_name());
    let before = Host::counters(&hosts).await?;
    let clock = Instant::now();
    let done = CancellationToken::new();
    let pulls = async {
        let pulls = fleet.nodes.iter().map(async |node| {
            let image = node.containerd.cri().pull(&name).await;
            (image.map_err(|failed| failed.to_string()), clock.elapsed().as_secs_f64())
        });
        let outcomes = join_all(pulls).await;
        done.cancel();
        outcomes
    };
    let (outcomes, samples) = tokio::join!(pulls, sample(&hosts, &before, clock, &done, progress));
    let samples = samples?;
    let last = samples.last().map(|sample| sample.counters.clone()).unwrap_or_default();
    let rate = options.node_rate().bytes_per_second().unwrap_or_default();
    let nodes = outcomes.into_iter().enumerate().map(|(node, (image, ready_seconds))| NodePull {
        image,
        ready_seconds,
        wire_seconds: wire_seconds(&samples, node, rate as f64, ready_seconds),
        received: last[node].to_host,
    });
    Ok(Measured { nodes: nodes.collect(), registry_sent: last[hosts.len() - 1].from_host })
}

/// Reads all links until `done`, and once more then; counters are since `before`.
async fn sample(
    hosts: &[Host],
    before: &[Counter],
    clock: Instant,
    done: &CancellationToken,
    progress: &mut Progress,
) -> Result<Vec<Sample>> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::new();
    let mut last = false;
    while !last {
        tokio::select! {
            _ = ticks.tick() => {}
            () = done.cancelled() => last = true,
        }
        let now = Host::counters(hosts).await?;
        let since = now.iter().zip(before).map(|(now, before)| now.since(*before));
        let sample = Sample { seconds: clock.elapsed().as_secs_f64(), counters: since.collect() };
        progress.show(sample.seconds, &sample.counters);
        samples.push(sample);
    }
    progress.finish();
    Ok(samples)
}

/// The end of the last sample, up to the pull's end, in which the node's link was busy.
fn wire_seconds(samples: &[Sample], node: usize, rate: f64, ready_seconds: f64) -> f64 {
    let busy = samples.windows(2).filter(|pair| {
        let seconds = pair[1].seconds - pair[0].seconds;
        let bytes = pair[1].counters[node].since(pair[0].counters[node]).to_host;
        bytes as f64 > BUSY_SHARE * rate * seconds
    });
    let mut ends = busy.map(|pair| pair[1].seconds).filter(|&end| end <= ready_seconds);
    ends.next_back().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(received: &[u64]) -> Vec<Sample> {
        let sample = |(number, &to_host): (usize, &u64)| Sample {
            seconds: number as f64 / 10.0,
            counters: vec![Counter { to_host, from_host: 0 }],
        };
        received.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn the_wire_ends_with_the_last_busy_sample() {
        // 1000 bytes/s: a sample of 0.1 s is busy above 5 bytes.
        let samples = samples(&[0, 100, 200, 200, 290, 293, 296, 296]);
        assert_eq!(wire_seconds(&samples, 0, 1000.0, 9.0), 0.4);
    }

    #[test]
    fn what_arrives_after_the_pull_is_not_the_pull() {
        let samples = samples(&[0, 100, 200, 300, 400]);
        assert_eq!(wire_seconds(&samples, 0, 1000.0, 0.25), 0.2);
    }

    #[test]
    fn a_link_that_never_moved_took_no_time() {
        assert_eq!(wire_seconds(&samples(&[0, 0, 1]), 0, 1000.0, 9.0), 0.0);
    }
}
