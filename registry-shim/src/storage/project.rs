//! Projects: the first path segment of a repository's name, what a quota is given to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use longshore_proto::RepositoryName;

/// The first segment of a repository's name; `team` of `team/app/web`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project(Arc<str>);

/// Not one segment of a repository's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a project: one segment of lower-case letters, digits and . _ - between them")]
pub struct InvalidProject;

impl Project {
    /// The project that a repository belongs to.
    pub fn of(repository: &RepositoryName) -> Self {
        Self(repository.project().into())
    }

    /// The segment.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the repository belongs to it.
    pub fn holds(&self, repository: &RepositoryName) -> bool {
        repository.project() == &*self.0
    }
}

impl FromStr for Project {
    type Err = InvalidProject;

    fn from_str(text: &str) -> Result<Self, InvalidProject> {
        let name: RepositoryName = text.parse().map_err(|_| InvalidProject)?;
        if name.project() == text { Ok(Self::of(&name)) } else { Err(InvalidProject) }
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_first_segment_and_nothing_else() {
        let project: Project = "team".parse().unwrap();
        assert_eq!(Project::of(&"team/app/web".parse().unwrap()), project);
        assert!(project.holds(&"team".parse().unwrap()));
        assert!(!project.holds(&"team-b/app".parse().unwrap()));
        for bad in ["", "team/app", "Team", "team!", "..", "a b"] {
            assert_eq!(bad.parse::<Project>(), Err(InvalidProject), "{bad}");
        }
    }
}
