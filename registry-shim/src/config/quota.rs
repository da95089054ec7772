//! `[quota]`: how many bytes a project may have.

use std::collections::BTreeMap;
use std::fmt;

use bytesize::ByteSize;
use longshore_settings::{Kind, Setting};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use crate::storage::Project;

/// Shortest lease: a round trip to a slow store must be short beside it.
const LEASE_MS_MIN: u64 = 1000;
const LEASE_MS_MAX: u64 = 3_600_000;
/// Clients give up when headers take 30 seconds.
const WAIT_MS_MAX: u64 = 25_000;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "quota.default_bytes",
        kind: Kind::Text,
        help: "bytes of a project that has no limit of its own, as 500GiB [default: 0, no limit]",
    },
    Setting {
        key: "quota.projects",
        kind: Kind::List,
        help: "limits of projects, as team=500GiB, separated by commas; 0: no limit",
    },
    Setting {
        key: "quota.lease_bytes_max",
        kind: Kind::Text,
        help: "headroom that an instance leases ahead [default: 1GiB]",
    },
    Setting {
        key: "quota.lease_ms",
        kind: Kind::Number,
        help: "milliseconds that a lease may be used [default: 60000]",
    },
    Setting {
        key: "quota.wait_ms",
        kind: Kind::Number,
        help: "milliseconds that a push waits for headroom which others hold [default: 15000]",
    },
];

/// `[quota]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// For projects without a limit of their own; 0: none.
    #[serde(deserialize_with = "size")]
    pub default_bytes: u64,
    /// Bytes by project; 0: no limit.
    #[serde(deserialize_with = "projects")]
    pub projects: BTreeMap<Project, u64>,
    /// Leased at most beyond what pushes ask for.
    #[serde(deserialize_with = "size")]
    pub lease_bytes_max: u64,
    /// How long a lease is used; half as long again it holds its headroom if its holder died.
    #[serde(deserialize_with = "lease_ms")]
    pub lease_ms: u64,
    /// How long a push waits for headroom that others hold.
    #[serde(deserialize_with = "wait_ms")]
    pub wait_ms: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            default_bytes: 0,
            projects: BTreeMap::new(),
            lease_bytes_max: 1024 * 1024 * 1024,
            lease_ms: 60_000,
            wait_ms: 15_000,
        }
    }
}

impl Quota {
    /// Whether anything is charged at all.
    pub fn is_on(&self) -> bool {
        self.first_key().is_some()
    }

    /// The key that makes it so.
    pub fn first_key(&self) -> Option<&'static str> {
        match (self.default_bytes, self.projects.is_empty()) {
            (0, true) => None,
            (0, false) => Some("quota.projects"),
            _ => Some("quota.default_bytes"),
        }
    }

    /// Bytes that the project may have; `None`: as many as it likes.
    pub fn limit_of(&self, project: &Project) -> Option<u64> {
        let limit = self.projects.get(project).copied().unwrap_or(self.default_bytes);
        (limit > 0).then_some(limit)
    }
}

/// `0`, `500GiB`, `1.5 TB`: a number of bytes, or a text with a unit.
#[derive(Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, as 500GiB")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom("less than no bytes"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).map_err(E::custom)
            }
        }
        from.deserialize_any(Visit)
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let parsed: Result<ByteSize, _> = text.trim().parse();
    parsed.map(|size| size.as_u64()).map_err(|_| format!("{text:?} is not bytes, as 500GiB"))
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Size::deserialize(from).map(|size| size.0)
}

/// A table in the file; flags and environment bring a list of `PROJECT=SIZE`.
fn projects<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Project, u64>, D::Error> {
    struct Visit;
    impl<'de> Visitor<'de> for Visit {
        type Value = BTreeMap<Project, u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("PROJECT = SIZE")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut projects = BTreeMap::new();
            while let Some((name, size)) = map.next_entry::<String, Size>()? {
                projects.insert(project(&name)?, size.0);
            }
            Ok(projects)
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
            let mut projects = BTreeMap::new();
            while let Some(entry) = list.next_element::<String>()? {
                let (name, size) = entry
                    .split_once('=')
                    .ok_or_else(|| S::Error::custom(format!("{entry:?} is not PROJECT=SIZE")))?;
                let size = parse_size(size).map_err(S::Error::custom)?;
                projects.insert(project(name.trim())?, size);
            }
            Ok(projects)
        }
    }
    from.deserialize_any(Visit)
}

fn project<E: de::Error>(name: &str) -> Result<Project, E> {
    name.parse().map_err(|error| E::custom(format!("{name:?} is {error}")))
}

fn lease_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(u64::deserialize(from)?, LEASE_MS_MIN, LEASE_MS_MAX)
}

fn wait_ms<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    within(u64::deserialize(from)?, 0, WAIT_MS_MAX)
}

fn within<E: de::Error>(value: u64, min: u64, max: u64) -> Result<u64, E> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(E::custom(format!("not between {min} and {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Quota, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_project_has_its_own_limit_the_default_or_none() {
        let config =
            read("default_bytes = \"1GiB\"\n[projects]\nteam = \"1.5 TiB\"\nfree = 0\n").unwrap();
        let limit = |name: &str| config.limit_of(&name.parse().unwrap());
        assert_eq!(limit("team"), Some(3 << 39));
        assert_eq!(limit("free"), None);
        assert_eq!(limit("other"), Some(1 << 30));
        assert_eq!(config.first_key(), Some("quota.default_bytes"));
    }

    #[test]
    fn a_list_says_the_same_as_a_table() {
        let list = read("projects = [\"team=500GiB\", \"b = 7\"]").unwrap();
        let table = read("[projects]\nteam = \"500GiB\"\nb = 7").unwrap();
        assert_eq!(list.projects, table.projects);
        assert_eq!(list.first_key(), Some("quota.projects"));
        assert_eq!(list.limit_of(&"other".parse().unwrap()), None);
        assert!(!Quota::default().is_on());
    }

    #[test]
    fn what_can_not_work_is_refused() {
        for bad in [
            "default_bytes = \"much\"",
            "default_bytes = -1",
            "projects = [\"team\"]",
            "projects = [\"team/app=1GiB\"]",
            "[projects]\nteam = true",
            "[projects]\n\"team/app\" = 1",
            "lease_ms = 999",
            "wait_ms = 25001",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
