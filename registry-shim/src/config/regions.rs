//! `[regions]`: stores in several regions. It is off while no region is named.

use std::collections::BTreeSet;

use longshore_settings::{Kind, Setting};
use serde::Deserialize;

use super::Storage;
use crate::storage::StorageUrl;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "regions.timeout_ms",
        kind: Kind::Number,
        help: "milliseconds that a region's store has for a record before the other is asked \
               [default: 3000]",
    },
    Setting {
        key: "regions.probe_redirects",
        kind: Kind::Switch,
        help: "read through redirects' URLs to know that clients can [default: true]",
    },
];

/// A handler makes a few reads in a row, and containerd waits for 30 s.
const TIMEOUT_MS_MAX: u64 = 10_000;
/// Longest name of a region.
const NAME_CHARS_MAX: usize = 32;

/// `[regions]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regions {
    /// Milliseconds for one record.
    #[serde(deserialize_with = "timeout")]
    pub timeout_ms: u64,
    /// Whether redirects' URLs are tried. Not where only clients reach them.
    pub probe_redirects: bool,
    /// In the file alone. With regions the store of `[storage]` is not used.
    pub region: Vec<Region>,
}

/// `[[regions.region]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// As metrics, health and keys name it.
    pub name: String,
    /// Its store, with all that `[storage]` has but the promises.
    pub storage: Storage,
    /// Patterns of the repositories whose home it is; `*` is any text.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// Whether it is the home of what no pattern names.
    #[serde(default)]
    pub default: bool,
    /// The region that keeps the replica of this one; else the next in the list.
    #[serde(default)]
    pub replica: Option<String>,
}

impl Default for Regions {
    fn default() -> Self {
        Self { timeout_ms: 3000, probe_redirects: true, region: Vec::new() }
    }
}

impl Regions {
    /// What one region's table alone cannot tell.
    ///
    /// # Errors
    /// One line that says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        if self.region.is_empty() {
            return Ok(());
        }
        if self.region.len() < 2 {
            return Err("one region has no other to fail over to".to_owned());
        }
        if self.region.iter().filter(|region| region.default).count() != 1 {
            return Err("exactly one region must be the default".to_owned());
        }
        let (mut names, mut patterns) = (BTreeSet::new(), BTreeSet::new());
        for region in &self.region {
            let name = &region.name;
            if !is_name(name) {
                return Err(format!("{name:?} is no name: a-z, 0-9 and -, at most 32"));
            }
            if !names.insert(name) {
                return Err(format!("{name} is there twice"));
            }
            if let Some(pattern) = region.repositories.iter().find(|p| !patterns.insert(*p)) {
                return Err(format!("pattern {pattern:?} is there twice"));
            }
            if !region.storage.immutable_tags.is_empty() {
                return Err(format!("{name}: immutable_tags stand in [storage], for all regions"));
            }
            let same = |other: &&Region| {
                let (a, b) = (&other.storage, &region.storage);
                a.url == b.url && a.endpoint == b.endpoint
            };
            let twins = self.region.iter().filter(same).count();
            if twins > 1 && region.storage.url != StorageUrl::Memory {
                return Err(format!("{name} shares its store with another region"));
            }
            self.replica_of(region)?;
        }
        Ok(())
    }

    /// The index of the region that keeps the replica of `region`.
    ///
    /// # Errors
    /// When it names itself or nobody.
    pub fn replica_of(&self, region: &Region) -> Result<usize, String> {
        let named = |name: &str| self.region.iter().position(|other| other.name == name);
        let own = named(&region.name).expect("a region is in its list");
        let Some(replica) = &region.replica else { return Ok((own + 1) % self.region.len()) };
        match named(replica) {
            Some(other) if other != own => Ok(other),
            _ => Err(format!("replica of {} is not another region", region.name)),
        }
    }
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(known)
}

fn timeout<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let timeout = u64::deserialize(from)?;
    if (1..=TIMEOUT_MS_MAX).contains(&timeout) {
        return Ok(timeout);
    }
    Err(serde::de::Error::custom(format!("not between 1 and {TIMEOUT_MS_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(regions: &str) -> Result<(), String> {
        let config: Regions = toml::from_str(regions).map_err(|error| error.to_string())?;
        config.check()
    }

    const EU: &str = "[[region]]\nname = \"eu\"\ndefault = true\nstorage.url = \"file:///eu\"\n";
    const US: &str = "[[region]]\nname = \"us\"\nstorage.url = \"file:///us\"\n";

    #[test]
    fn two_regions_keep_each_others_replica() {
        assert_eq!(check(""), Ok(()));
        assert_eq!(check(&format!("{EU}{US}")), Ok(()));
        let config: Regions = toml::from_str(&format!("{EU}{US}")).unwrap();
        let replicas = config.region.iter().map(|region| config.replica_of(region).unwrap());
        assert_eq!(replicas.collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn regions_that_can_not_work_are_refused() {
        for (regions, why) in [
            (EU.to_owned(), "no other"),
            (format!("{US}{}", US.replace("us", "ap")), "default"),
            (format!("{EU}{}", EU.replace("eu", "us")), "default"),
            (format!("{EU}{US}{}", US.replace("/us", "/ap")), "twice"),
            (format!("{EU}{}", US.replace("\"us\"", "\"U S\"")), "no name"),
            (format!("{EU}{US}replica = \"us\"\n"), "not another"),
            (format!("{EU}{US}replica = \"mars\"\n"), "not another"),
            (format!("{EU}repositories = [\"a*\"]\n{US}repositories = [\"a*\"]\n"), "twice"),
            (format!("{EU}{}", US.replace("/us", "/eu")), "shares"),
            (format!("{EU}{US}storage.immutable_tags = [\"a:b\"]\n"), "immutable"),
            (format!("timeout_ms = 0\n{EU}{US}"), "between"),
            (format!("{EU}{US}colour = 1\n"), "unknown field"),
        ] {
            let error = check(&regions).unwrap_err();
            assert!(error.contains(why), "{regions}: {error}");
        }
    }
}
