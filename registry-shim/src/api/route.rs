//! Paths of the distribution API, without a regular expression: this stands on the hot path.
//!
//! A repository's name may hold the words `manifests`, `blobs` and `tags`, so a path is read from
//! its end.

use std::borrow::Cow;

use longshore_proto::{ErrorCode, RepositoryName};

use super::ApiError;

/// Longest component of a name. A local store makes it a file's name, of at most 255 bytes, to
/// which the layout and the store's own staging add some.
const COMPONENT_CHARS_MAX: usize = 240;

/// What a path names. References and digests are parsed by their handlers, which know their
/// errors.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/v2/`
    Base,
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Cow<'a, str>),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Cow<'a, str>),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, &'a str),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Cow<'a, str>),
}

impl<'a> Route<'a> {
    /// `None` for what is no path of the API.
    pub(super) fn parse(path: &'a str) -> Option<Result<Self, ApiError>> {
        let rest = match path {
            "/v2" | "/v2/" => return Some(Ok(Self::Base)),
            "/v2/_catalog" => return Some(Ok(Self::Catalog)),
            "/token" => return Some(Ok(Self::Token)),
            _ => path.strip_prefix("/v2/")?,
        };
        let named =
            |name: &str, route: &dyn Fn(RepositoryName) -> Self| Some(repository(name).map(route));
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return named(name, &Self::Tags);
        }
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return named(name, &Self::Uploads);
        }
        let (before, last) = rest.rsplit_once('/')?;
        let (name, noun) = before.rsplit_once('/')?;
        match noun {
            "manifests" => named(name, &|name| Self::Manifest(name, decode(last))),
            "blobs" => named(name, &|name| Self::Blob(name, decode(last))),
            "referrers" => named(name, &|name| Self::Referrers(name, decode(last))),
            "uploads" => named(name.strip_suffix("/blobs")?, &|name| Self::Upload(name, last)),
            _ => None,
        }
    }

    /// The repository that it lies in.
    pub(super) const fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Catalog | Self::Token => None,
            Self::Tags(name)
            | Self::Uploads(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    /// The same of another repository.
    pub(super) fn renamed(
        self,
        rename: impl FnOnce(RepositoryName) -> Result<RepositoryName, ApiError>,
    ) -> Result<Self, ApiError> {
        Ok(match self {
            Self::Base => Self::Base,
            Self::Catalog => Self::Catalog,
            Self::Token => Self::Token,
            Self::Tags(name) => Self::Tags(rename(name)?),
            Self::Manifest(name, reference) => Self::Manifest(rename(name)?, reference),
            Self::Blob(name, digest) => Self::Blob(rename(name)?, digest),
            Self::Uploads(name) => Self::Uploads(rename(name)?),
            Self::Upload(name, id) => Self::Upload(rename(name)?, id),
            Self::Referrers(name, digest) => Self::Referrers(rename(name)?, digest),
        })
    }

    /// Its name in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Token => "token",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }
}

/// A name that every store can keep.
pub(super) fn repository(name: &str) -> Result<RepositoryName, ApiError> {
    if name.split('/').any(|component| component.len() > COMPONENT_CHARS_MAX) {
        let message = format!("a name's component has more than {COMPONENT_CHARS_MAX} characters");
        return Err(ApiError::new(ErrorCode::NameInvalid, message));
    }
    Ok(name.parse()?)
}

/// Some clients write the colon of a digest as `%3A`.
fn decode(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

/// A request's query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    /// The first value under that name.
    pub(super) fn get(self, name: &str) -> Option<Cow<'a, str>> {
        if self.0.is_empty() {
            return None;
        }
        let mut pairs = form_urlencoded::parse(self.0.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All values under that name.
    pub(super) fn all(self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = form_urlencoded::parse(self.0.as_bytes());
        pairs.filter(move |(key, _)| key == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    fn route(path: &str) -> Option<Result<Route<'_>, ErrorCode>> {
        Route::parse(path).map(|parsed| parsed.map_err(|error| error.code()))
    }

    #[test]
    fn reads_every_path_of_the_api() {
        assert_eq!(route("/v2/"), Some(Ok(Route::Base)));
        assert_eq!(route("/v2/_catalog"), Some(Ok(Route::Catalog)));
        assert_eq!(route("/token"), Some(Ok(Route::Token)));
        assert_eq!(route("/v2/a/b/tags/list"), Some(Ok(Route::Tags(name("a/b")))));
        let manifest = Route::Manifest(name("a"), "v1".into());
        assert_eq!(route("/v2/a/manifests/v1"), Some(Ok(manifest)));
        let blob = Route::Blob(name("a"), "sha256:00".into());
        assert_eq!(route("/v2/a/blobs/sha256%3A00"), Some(Ok(blob)));
        assert_eq!(route("/v2/a/blobs/uploads/"), Some(Ok(Route::Uploads(name("a")))));
        assert_eq!(route("/v2/a/blobs/uploads"), Some(Ok(Route::Uploads(name("a")))));
        assert_eq!(route("/v2/a/blobs/uploads/id"), Some(Ok(Route::Upload(name("a"), "id"))));
        let referrers = Route::Referrers(name("a"), "d".into());
        assert_eq!(route("/v2/a/referrers/d"), Some(Ok(referrers)));
    }

    #[test]
    fn a_name_may_hold_the_apis_own_words() {
        let route = route("/v2/blobs/manifests/tags/manifests/list");
        let expected = Route::Manifest(name("blobs/manifests/tags"), "list".into());
        assert_eq!(route, Some(Ok(expected)));
    }

    #[test]
    fn refuses_names_that_are_none() {
        assert_eq!(route("/v2/A/tags/list"), Some(Err(ErrorCode::NameInvalid)));
        assert_eq!(route("/v2/a/../b/manifests/x"), Some(Err(ErrorCode::NameInvalid)));
        let long = |chars: usize| format!("/v2/a/{}/tags/list", "b".repeat(chars));
        assert!(matches!(route(&long(COMPONENT_CHARS_MAX)), Some(Ok(_))));
        let too_long = long(COMPONENT_CHARS_MAX + 1);
        assert_eq!(route(&too_long), Some(Err(ErrorCode::NameInvalid)));
        for unknown in ["/", "/v1/", "/v2/a", "/v2/a/b", "/v2/a/things/b", "/v2/a/uploads/b"] {
            assert_eq!(route(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn reads_queries() {
        let query = Query("mount=sha256%3Aab&from=a%2Fb");
        assert_eq!(query.get("mount").as_deref(), Some("sha256:ab"));
        assert_eq!(query.get("from").as_deref(), Some("a/b"));
        assert_eq!(query.get("digest"), None);
        assert_eq!(Query("tag=a&n=1&tag=b").all("tag").collect::<Vec<_>>(), ["a", "b"]);
    }
}
