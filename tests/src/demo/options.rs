//! The demo's flags. The figures count at their defaults.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

use crate::testkit::{ContainerdVersion, Rate};

/// Pulls a real image on a fleet of real containerds at once, with Longshore and without.
#[derive(Debug, Clone, Parser)]
#[command(name = "longshore-demo", version)]
pub struct Options {
    /// Nodes that pull at the same moment.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub nodes: u16,
    /// Rate of every link in each direction, Mbit/s.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub link_mbit: u32,
    /// Rate of the registry's link, where it is another one.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub registry_mbit: Option<u32>,
    /// `debian`, or `random:LAYERSxMEGABYTES` for a small one.
    #[arg(long, default_value = "debian")]
    pub image: ImageChoice,
    /// containerd 1.6, 1.7 or 2.1.
    #[arg(long, default_value = "1.6", value_parser = containerd)]
    pub containerd: ContainerdVersion,
    /// Where the figures are written.
    #[arg(long, default_value = "target/figures/demo.json")]
    pub figures: PathBuf,
}

impl Options {
    /// The rate of a node's link.
    pub fn node_rate(&self) -> Rate {
        Rate::mbit(self.link_mbit)
    }

    /// The rate of the registry's link.
    pub fn registry_rate(&self) -> Rate {
        Rate::mbit(self.registry_link_mbit())
    }

    /// The same in Mbit/s.
    pub fn registry_link_mbit(&self) -> u32 {
        self.registry_mbit.unwrap_or(self.link_mbit)
    }

    /// The best possible time for the last node, in seconds: the source must send the image once,
    /// each node must receive it, and all uplinks together must carry it to all nodes.
    pub fn bound_seconds(&self, image_bytes: u64) -> f64 {
        let bytes_per_second = |megabits: u32| f64::from(megabits) * 1e6 / 8.0;
        let (source, node) =
            (bytes_per_second(self.registry_link_mbit()), bytes_per_second(self.link_mbit));
        let (bytes, nodes) = (image_bytes as f64, f64::from(self.nodes));
        (bytes / source).max(bytes / node).max(nodes * bytes / (source + nodes * node))
    }
}

/// Which image is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// The real one, of Debian's packages.
    Debian,
    /// Random bytes in so many layers of so many megabytes.
    Random {
        /// Number of layers.
        layers: u8,
        /// Size of each.
        megabytes: u16,
    },
}

impl FromStr for ImageChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "debian" {
            return Ok(Self::Debian);
        }
        let parse = || {
            let (layers, megabytes) = text.strip_prefix("random:")?.split_once('x')?;
            Some((
                layers.parse().ok().filter(|&n| n > 0)?,
                megabytes.parse().ok().filter(|&n| n > 0)?,
            ))
        };
        let (layers, megabytes) =
            parse().ok_or("neither `debian` nor `random:LAYERSxMEGABYTES`".to_owned())?;
        Ok(Self::Random { layers, megabytes })
    }
}

fn containerd(text: &str) -> Result<ContainerdVersion, String> {
    match text {
        "1.6" => Ok(ContainerdVersion::V1_6),
        "1.7" => Ok(ContainerdVersion::V1_7),
        "2.1" => Ok(ContainerdVersion::V2_1),
        _ => Err("the lab has 1.6, 1.7 and 2.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_slowest_of_the_three() {
        let options = Options::parse_from(["demo"]);
        // 50 Mbit/s are 6.25 MB/s: one copy takes 32 s, all uplinks together less.
        assert_eq!(options.bound_seconds(200_000_000), 32.0);
        let slow_nodes =
            Options::parse_from(["demo", "--link-mbit", "10", "--registry-mbit", "50"]);
        assert_eq!(slow_nodes.bound_seconds(200_000_000), 160.0);
        let slow_source = Options::parse_from(["demo", "--registry-mbit", "5", "--nodes", "1"]);
        assert_eq!(slow_source.bound_seconds(200_000_000), 320.0);
    }

    #[test]
    fn an_image_is_chosen_by_name_or_by_size() {
        assert_eq!("debian".parse(), Ok(ImageChoice::Debian));
        let random = ImageChoice::Random { layers: 4, megabytes: 2 };
        assert_eq!("random:4x2".parse(), Ok(random));
        for bad in ["", "random", "random:0x2", "random:4", "random:4x", "busybox"] {
            assert!(bad.parse::<ImageChoice>().is_err(), "{bad}");
        }
    }
}
