//! Which region is a repository's home: the one with the longest pattern that matches.

use longshore_proto::RepositoryName;
use wildmatch::WildMatch;

/// Patterns and the regions that they name.
#[derive(Debug)]
pub(super) struct Routes {
    /// The longest first.
    patterns: Vec<(WildMatch, usize)>,
    default: usize,
}

impl Routes {
    /// `patterns` name regions by index; what matches none belongs to `default`.
    pub(super) fn new(patterns: impl IntoIterator<Item = (String, usize)>, default: usize) -> Self {
        let mut patterns: Vec<(String, usize)> = patterns.into_iter().collect();
        patterns.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        let compile = |(pattern, region): (String, usize)| (WildMatch::new(&pattern), region);
        Self { patterns: patterns.into_iter().map(compile).collect(), default }
    }

    /// The repository's home.
    pub(super) fn home(&self, repository: &RepositoryName) -> usize {
        let found = self.patterns.iter().find(|(pattern, _)| pattern.matches(repository.as_str()));
        found.map_or(self.default, |(_, region)| *region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_decides() {
        let patterns = [("eu/*", 1), ("eu/shared/*", 2), ("*/cache", 3)];
        let patterns = patterns.map(|(pattern, region)| (pattern.to_owned(), region));
        let routes = Routes::new(patterns, 0);
        let home = |name: &str| routes.home(&name.parse().unwrap());
        assert_eq!(home("team/app"), 0);
        assert_eq!(home("eu/app"), 1);
        assert_eq!(home("eu/shared/app"), 2);
        assert_eq!(home("eu/cache"), 3);
        assert_eq!(home("us/cache"), 3);
        assert_eq!(home("europe/app"), 0);
    }
}
