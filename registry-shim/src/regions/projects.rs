//! Projects and homes: a quota counts within one home, so a project that has one must have one home.

use std::collections::BTreeSet;

use longshore_proto::RepositoryName;
use wildmatch::WildMatch;

use crate::config::{Config, Quota};
use crate::storage::Project;

/// A pattern and the region that it names.
#[derive(Clone, Copy)]
struct Route<'a> {
    pattern: &'a str,
    /// What it begins with, up to the first character that may be another.
    head: &'a str,
    region: &'a str,
}

/// Whether every project that has a quota has all its repositories in one region. The error is one
/// line.
pub(super) fn check(config: &Config) -> Result<(), String> {
    let (routes, default) = routes(config);
    for project in limited(&config.quota, &routes) {
        let homes = homes(&project, &routes, default);
        if homes.len() > 1 {
            let homes = Vec::from_iter(homes).join(" and ");
            return Err(format!(
                "project {project} has a quota, and repositories in {homes}: \
                 name {project} and {project}/* in one region"
            ));
        }
    }
    if config.quota.default_bytes > 0
        && let Some(route) = routes.iter().find(|route| route.may_split_any())
    {
        let pattern = route.pattern;
        return Err(format!("{pattern:?} may split a project, and every project has a quota"));
    }
    Ok(())
}

fn routes(config: &Config) -> (Vec<Route<'_>>, &str) {
    let regions = &config.regions.region;
    let mut routes: Vec<Route<'_>> = regions
        .iter()
        .flat_map(|region| region.repositories.iter().map(|pattern| Route::new(pattern, region)))
        .collect();
    // As `Routes` tries them.
    routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.len()));
    let default = regions.iter().find(|region| region.default);
    (routes, default.map_or("", |region| &region.name))
}

/// Projects that have a limit and may be split: those with one of their own, and with a limit for
/// all those that a pattern names.
fn limited(quota: &Quota, routes: &[Route<'_>]) -> BTreeSet<Project> {
    let named = routes.iter().filter_map(|route| route.project());
    let all = quota.projects.keys().cloned().chain(named);
    all.filter(|project| quota.limit_of(project).is_some()).collect()
}

/// Regions in which repositories of the project may be: the one of its own name, and those inside.
fn homes<'a>(project: &Project, routes: &[Route<'a>], default: &'a str) -> BTreeSet<&'a str> {
    let own = routes.iter().find(|route| WildMatch::new(route.pattern).matches(project.as_str()));
    let mut homes = BTreeSet::from([own.map_or(default, |route| route.region)]);
    let inside = format!("{project}/");
    for route in routes.iter().filter(|route| route.may_match_in(&inside)) {
        homes.insert(route.region);
        if route.is_a_beginning() && inside.starts_with(route.head) {
            return homes;
        }
    }
    homes.insert(default);
    homes
}

impl<'a> Route<'a> {
    fn new(pattern: &'a str, region: &'a crate::config::Region) -> Self {
        let head = pattern.find(['*', '?']).map_or(pattern, |end| &pattern[..end]);
        Self { pattern, head, region: &region.name }
    }

    /// The project whose name is written out.
    fn project(&self) -> Option<Project> {
        let whole = self.head == self.pattern || self.head.contains('/');
        let name = self.head.split('/').next().filter(|_| whole)?;
        let name: RepositoryName = name.parse().ok()?;
        Some(Project::of(&name))
    }

    /// Whether it may match what begins so.
    fn may_match_in(&self, inside: &str) -> bool {
        let is_literal = self.head == self.pattern;
        self.head.starts_with(inside) || (!is_literal && inside.starts_with(self.head))
    }

    /// `head*`: whatever begins so.
    fn is_a_beginning(&self) -> bool {
        self.pattern.strip_prefix(self.head) == Some("*")
    }

    /// Whether it tells repositories of one project apart, whichever project that is.
    fn may_split_any(&self) -> bool {
        self.project().is_none() && !self.is_a_beginning()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(quota: &str, eu: &[&str], us: &[&str]) -> Result<(), String> {
        let text = format!(
            "[quota]\n{quota}\n\
             [[regions.region]]\nname = \"eu\"\nrepositories = {eu:?}\nstorage.url = \"file:///eu\"\n\
             [[regions.region]]\nname = \"us\"\nrepositories = {us:?}\ndefault = true\n\
             storage.url = \"file:///us\"\n"
        );
        check(&toml::from_str(&text).unwrap())
    }

    const TEAM: &str = "projects = [\"team=1GiB\"]";
    const ALL: &str = "default_bytes = \"1GiB\"";

    #[test]
    fn a_project_in_one_region_may_have_a_quota() {
        for (quota, eu, us) in [
            (TEAM, &[][..], &[][..]),
            (TEAM, &["team", "team/*"], &[]),
            (TEAM, &["team*"], &["other/*"]),
            (TEAM, &["other/*", "*/c"], &["team*"]),
            (TEAM, &["team-b/*", "teams"], &[]),
            (ALL, &["eu*"], &["us-*"]),
            (ALL, &["eu-one", "eu-one/*"], &[]),
            ("projects = [\"team=0\"]\ndefault_bytes = 1", &["team/*"], &[]),
            ("", &["team/*", "*/cache"], &[]),
        ] {
            assert_eq!(checked(quota, eu, us), Ok(()), "{quota} {eu:?} {us:?}");
        }
    }

    #[test]
    fn a_project_in_two_regions_may_not() {
        for (quota, eu, us) in [
            (TEAM, &["team/*"][..], &[][..]),
            (TEAM, &["team/app"], &[]),
            (TEAM, &["*/cache"], &[]),
            (TEAM, &["team*"], &["team/shared/*"]),
            (TEAM, &["te?m/*"], &[]),
            (ALL, &["team/*"], &[]),
            (ALL, &["*/cache"], &[]),
            (ALL, &["eu-*/app"], &[]),
        ] {
            assert!(checked(quota, eu, us).is_err(), "{quota} {eu:?} {us:?}");
        }
        assert_eq!(
            checked(TEAM, &["team/*"], &[]).unwrap_err(),
            "project team has a quota, and repositories in eu and us: \
             name team and team/* in one region"
        );
    }
}
