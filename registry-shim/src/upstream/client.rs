//! Asks one upstream: with its credentials, within its limits, through its redirects.
//!
//! Credentials go to the upstream's own origin and to allowed token servers, never along a
//! redirect. Every question has a deadline that lies within the 30 s that our clients wait; bodies
//! are the caller's to bound. Nothing here is cached but tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, IF_NONE_MATCH, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use longshore_proto::{ErrorBody, ErrorCode, RepositoryName};
use reqwest::{Certificate, Response, Url};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::challenge::{Challenge, authority, token_url};
use super::error::UpstreamError;
use super::limit::{Limit, Use};
use super::metrics::UpstreamMetrics;
use super::secret::Credentials;
use super::token::{Token, TokenAnswer, Tokens};
use crate::config::UpstreamRegistry;

/// For a question and all its tries: well within a client's 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// For one try, so that another fits.
const TRY_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Tries after the first.
const RETRIES_MAX: usize = 2;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
const REDIRECTS_MAX: usize = 5;
/// A token server's answer: some tokens have tens of kilobytes.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// An error's body, of which the first message is shown.
const ERROR_BYTES_MAX: usize = 16 * 1024;
const ERROR_CHARS_MAX: usize = 200;
/// Bytes of a body may rest as long.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// For a push of a blob, and more for each second that its bytes take at the least rate.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);
const PUSH_BYTES_PER_S_MIN: u64 = 1024 * 1024;

/// Manifests of every kind that this registry keeps.
const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json",
);

/// One upstream, reached over HTTP.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    credentials: Option<Credentials>,
    realms: Vec<String>,
    tokens: Tokens,
    /// The upstream asked for the credentials themselves.
    basic: AtomicBool,
    limit: Limit,
    metrics: UpstreamMetrics,
}

/// A question.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) repository: &'a RepositoryName,
    /// `manifests/latest`, with its query.
    pub(super) path: String,
    pub(super) push: bool,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

/// What a request shows of itself.
enum Shown {
    Nothing,
    Basic,
    Token(Arc<Token>),
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, repository: &'a RepositoryName, path: String) -> Self {
        let headers = HeaderMap::from_iter([(ACCEPT, ACCEPTED)]);
        Self { method, repository, path, push: false, headers, body: None }
    }

    pub(super) fn get(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::GET, repository, path)
    }

    pub(super) fn head(repository: &'a RepositoryName, path: String) -> Self {
        Self::new(Method::HEAD, repository, path)
    }

    /// Only what lies from `offset` on.
    pub(super) fn from(mut self, offset: u64) -> Self {
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("bytes={offset}-"));
            self.headers.insert(RANGE, range.expect("a number is a header value"));
        }
        self
    }

    /// Only what is not `etag`.
    pub(super) fn unless(mut self, etag: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(etag) {
            self.headers.insert(IF_NONE_MATCH, value);
        }
        self
    }

    /// A write: the token must allow it, and it is not tried twice.
    pub(super) fn pushing(mut self) -> Self {
        self.push = true;
        self
    }

    /// What a token for it must allow.
    fn scope(&self) -> String {
        let actions = if self.push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.repository)
    }
}

impl Client {
    /// Reads what the configuration names; the error is one line.
    pub(super) fn new(config: &UpstreamRegistry, metrics: UpstreamMetrics) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("longshore-registry/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca_file {
            let bad =
                |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(|error| bad(&error))?;
            let roots = Certificate::from_pem_bundle(&pem).map_err(|error| bad(&error))?;
            if roots.is_empty() {
                return Err(bad(&"holds no certificate"));
            }
            builder = builder.tls_certs_only(roots);
        }
        Ok(Self {
            http: builder.build().map_err(|error| crate::causes(&error))?,
            base: Url::parse(&config.url).map_err(|error| format!("url: {error}"))?,
            credentials: Credentials::load(config)?,
            realms: config.realms.clone(),
            tokens: Tokens::new(),
            basic: AtomicBool::new(false),
            limit: Limit::new(config),
            metrics,
        })
    }

    /// Waits for a place among the blobs that are read or written, within the time of an answer.
    pub(super) async fn place_for_bytes(&self) -> Result<SemaphorePermit<'_>, UpstreamError> {
        let place = tokio::time::timeout(ANSWER_TIMEOUT, self.limit.place(Use::Bytes)).await;
        place.map_err(|_| UpstreamError::Limited { retry_after_s: 0 })
    }

    /// The answer's head, of a status that means yes; its body is the caller's to read.
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Response, UpstreamError> {
        let answer = async {
            let _place = self.limit.place(Use::Question).await;
            // Rare and large: what waits for it stays small.
            Box::pin(self.tries(ask)).await
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
        let answer = answer.unwrap_or(Err(UpstreamError::TimedOut));
        self.metrics.asked(match &answer {
            Ok(_) => "ok",
            Err(error) => error.outcome(),
        });
        answer
    }

    async fn tries(&self, ask: &Ask<'_>) -> Result<Response, UpstreamError> {
        let ends = Instant::now() + ANSWER_TIMEOUT;
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_max_times(if ask.push { 0 } else { RETRIES_MAX })
            .with_jitter()
            .build();
        loop {
            self.limit.turn().await?;
            let tried = tokio::time::timeout(TRY_TIMEOUT, self.authorized(ask)).await;
            let error = match tried.unwrap_or(Err(UpstreamError::TimedOut)) {
                Err(error) if error.is_outage() => error,
                answer => return answer,
            };
            let asked_to_wait = match error {
                UpstreamError::Limited { retry_after_s } => Duration::from_secs(retry_after_s),
                _ => Duration::ZERO,
            };
            let Some(delay) = delays.next() else { return Err(error) };
            let again = Instant::now() + asked_to_wait + delay;
            if again >= ends {
                return Err(error);
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// One try; a 401 is answered with what it asks for, once.
    async fn authorized(&self, ask: &Ask<'_>) -> Result<Response, UpstreamError> {
        let scope = ask.scope();
        let shown = match self.tokens.kept(&scope).await {
            Some(token) => Shown::Token(token),
            None if self.basic.load(Ordering::Relaxed) => Shown::Basic,
            None => Shown::Nothing,
        };
        let response = self.follow(ask, &shown).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(ask, response).await;
        }
        let shown = match Challenge::of(response.headers()) {
            Some(Challenge::Bearer { realm, service, scope: asked }) => {
                let asked = if asked.is_empty() { &scope } else { &asked };
                let url = token_url(&realm, &service, asked, &self.base, &self.realms);
                let Some(url) = url else {
                    tracing::warn!(upstream = %self.base, "token server is not among the realms");
                    return Err(UpstreamError::Denied);
                };
                let refused = match &shown {
                    Shown::Token(token) => Some(token),
                    Shown::Nothing | Shown::Basic => None,
                };
                Shown::Token(self.tokens.renew(&scope, refused, self.fetch_token(url)).await?)
            }
            Some(Challenge::Basic)
                if self.credentials.is_some() && !matches!(shown, Shown::Basic) =>
            {
                self.basic.store(true, Ordering::Relaxed);
                Shown::Basic
            }
            _ => return Err(UpstreamError::Denied),
        };
        let response = self.follow(ask, &shown).await?;
        self.judge(ask, response).await
    }

    /// Sends, and follows redirects of reads.
    async fn follow(&self, ask: &Ask<'_>, shown: &Shown) -> Result<Response, UpstreamError> {
        let wrong = |what: &str| UpstreamError::BadAnswer(what.to_owned());
        let path = format!("/v2/{}/{}", ask.repository, ask.path);
        let mut url = self.base.join(&path).map_err(|_| wrong("path is none"))?;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.http.request(ask.method.clone(), url.clone());
            request = request.headers(ask.headers.clone());
            if let Some(value) = self.authorization(shown, &url) {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(body) = &ask.body {
                request = request.body(body.clone());
            }
            let response = request.send().await?;
            if !is_redirect(response.status()) || ask.push {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = next.and_then(|next| url.join(next).ok());
            let next = next.ok_or_else(|| wrong("redirect leads nowhere"))?;
            if self.base.scheme() == "https" && next.scheme() != "https" {
                return Err(wrong("redirect leaves TLS"));
            }
            url = next;
        }
        Err(wrong("too many redirects"))
    }

    /// Nothing for anybody but the upstream itself.
    fn authorization(&self, shown: &Shown, url: &Url) -> Option<HeaderValue> {
        if authority(url) != authority(&self.base) || url.scheme() != self.base.scheme() {
            return None;
        }
        match shown {
            Shown::Nothing => None,
            Shown::Basic => self.credentials.as_ref()?.basic(),
            Shown::Token(token) => token.text.bearer(),
        }
    }

    async fn fetch_token(&self, url: Url) -> Result<Token, UpstreamError> {
        let mut request = self.http.get(url);
        if let Some(basic) = self.credentials.as_ref().and_then(Credentials::basic) {
            request = request.header(AUTHORIZATION, basic);
        }
        let response = request.send().await?;
        match response.status().as_u16() {
            200 => {}
            429 => return Err(self.limited(response.headers())),
            status @ 500.. => {
                return Err(UpstreamError::Unavailable(format!("token server says {status}")));
            }
            _ => return Err(UpstreamError::Denied),
        }
        let body = read_bounded(response, TOKEN_BYTES_MAX).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| UpstreamError::BadAnswer("token server sends no token".to_owned()))?;
        answer.try_into()
    }

    /// What a status means.
    async fn judge(&self, ask: &Ask<'_>, response: Response) -> Result<Response, UpstreamError> {
        let status = response.status();
        match status.as_u16() {
            200..=299 | 304 => Ok(response),
            429 => Err(self.limited(response.headers())),
            503 if response.headers().contains_key(RETRY_AFTER) => {
                Err(self.limited(response.headers()))
            }
            408 | 504 => Err(UpstreamError::TimedOut),
            500.. => Err(UpstreamError::Unavailable(format!("it says {}", status.as_u16()))),
            401 | 403 => Err(UpstreamError::Denied),
            _ if ask.push => Err(refused(response).await),
            404 => Err(UpstreamError::NotFound),
            other => Err(UpstreamError::BadAnswer(format!("it says {other}"))),
        }
    }

    fn limited(&self, headers: &HeaderMap) -> UpstreamError {
        let retry_after_s = retry_after_s(headers);
        if retry_after_s > 0 {
            self.limit.pause(retry_after_s);
        }
        UpstreamError::Limited { retry_after_s }
    }

    /// Writes bytes to where an upload was opened; credentials as everywhere.
    pub(super) async fn put_bytes(
        &self,
        ask: &Ask<'_>,
        location: &str,
        digest: &str,
        length: u64,
        body: reqwest::Body,
    ) -> Result<(), UpstreamError> {
        let wrong = || UpstreamError::BadAnswer("upload has no location".to_owned());
        let mut url = self.base.join(location).map_err(|_| wrong())?;
        url.query_pairs_mut().append_pair("digest", digest);
        let mut request = self.http.put(url.clone()).body(body);
        request = request.header(http::header::CONTENT_LENGTH, length);
        request = request.header(http::header::CONTENT_TYPE, "application/octet-stream");
        let shown = match self.tokens.kept(&ask.scope()).await {
            Some(token) => Shown::Token(token),
            None if self.basic.load(Ordering::Relaxed) => Shown::Basic,
            None => Shown::Nothing,
        };
        if let Some(value) = self.authorization(&shown, &url) {
            request = request.header(AUTHORIZATION, value);
        }
        let within = PUSH_TIMEOUT + Duration::from_secs(length / PUSH_BYTES_PER_S_MIN);
        let sent = tokio::time::timeout(within, request.send()).await;
        let answer = self.judge(ask, sent.map_err(|_| UpstreamError::TimedOut)??).await?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            other => Err(UpstreamError::BadAnswer(format!("upload ends with {}", other.as_u16()))),
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The pusher learns the upstream's reason.
async fn refused(response: Response) -> UpstreamError {
    let fallback = format!("it says {}", response.status().as_u16());
    let code = match response.status().as_u16() {
        413 => ErrorCode::SizeInvalid,
        404 => ErrorCode::NameUnknown,
        405 => ErrorCode::Unsupported,
        _ => ErrorCode::ManifestInvalid,
    };
    let body = read_bounded(response, ERROR_BYTES_MAX).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body).ok().and_then(ErrorBody::into_first) {
        Some((code, message)) => UpstreamError::Refused {
            code,
            message: message.chars().take(ERROR_CHARS_MAX).collect(),
        },
        None => UpstreamError::Refused { code, message: fallback },
    }
}

/// Seconds, or a date of HTTP; 0 when nothing is said.
fn retry_after_s(headers: &HeaderMap) -> u64 {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else {
        return 0;
    };
    if let Ok(seconds) = text.trim().parse() {
        return seconds;
    }
    let format = &time::format_description::well_known::Rfc2822;
    let Ok(at) = time::OffsetDateTime::parse(text.trim(), format) else { return 0 };
    let left = (at - time::OffsetDateTime::now_utc()).whole_seconds();
    u64::try_from(left).unwrap_or(0)
}

/// A body that is held whole; one that is longer, or that rests, is an error.
pub(super) async fn read_bounded(
    mut response: Response,
    bytes_max: usize,
) -> Result<Bytes, UpstreamError> {
    let mut whole = BytesMut::new();
    loop {
        let chunk = tokio::time::timeout(STALL_TIMEOUT, response.chunk()).await;
        let Some(chunk) = chunk.map_err(|_| UpstreamError::TimedOut)?? else {
            return Ok(whole.freeze());
        };
        if whole.len() + chunk.len() > bytes_max {
            return Err(UpstreamError::BadAnswer(format!("more than {bytes_max} bytes")));
        }
        whole.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_retry_after() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            retry_after_s(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(read("7"), 7);
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
        assert!(read("Wed, 21 Oct 2115 07:28:00 GMT") > 1_000_000);
        assert_eq!((read("soon"), read("-1"), retry_after_s(&HeaderMap::new())), (0, 0, 0));
    }
}
