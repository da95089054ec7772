//! Asks one upstream: with its credentials, within its limits, through its redirects.
//!
//! Credentials go to the upstream's own origin and to allowed token servers, never along a
//! redirect. Every question has a deadline that lies within the 30 s that our clients wait; bodies
//! are the caller's to bound. Nothing here is cached but tokens.

mod check;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderValue, StatusCode};
use reqwest::{Response, Url};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::answer::{judge, limited, read_bounded};
use super::ask::{Ask, To};
use super::challenge::{Challenge, token_url};
use super::error::UpstreamError;
use super::limit::{Limit, Use};
use super::metrics::UpstreamMetrics;
use super::reach::Reach;
use super::secret::Credentials;
use super::token::{Token, TokenAnswer, Tokens};
use crate::config::UpstreamRegistry;

/// For a question and all its tries: well within a client's 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// For one try, so that another fits.
const TRY_TIMEOUT: Duration = Duration::from_secs(8);
/// Tries after the first.
const RETRIES_MAX: usize = 2;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
const REDIRECTS_MAX: usize = 5;
/// A token server's answer: some tokens have tens of kilobytes.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// One upstream, reached over HTTP.
#[derive(Debug)]
pub(super) struct Client {
    reach: Reach,
    credentials: Option<Credentials>,
    realms: Vec<String>,
    tokens: Tokens,
    /// The upstream asked for the credentials themselves.
    basic: AtomicBool,
    limit: Limit,
    metrics: UpstreamMetrics,
}

/// What a request shows of itself.
enum Shown {
    Nothing,
    Basic,
    Token(Arc<Token>),
}

impl Client {
    /// Reads what the configuration names; the error is one line.
    pub(super) fn new(config: &UpstreamRegistry, metrics: UpstreamMetrics) -> Result<Self, String> {
        Ok(Self {
            reach: Reach::new(config)?,
            credentials: Credentials::load(config)?,
            realms: config.realms.clone(),
            tokens: Tokens::new(),
            basic: AtomicBool::new(false),
            limit: Limit::new(config),
            metrics,
        })
    }

    /// Whether it is the upstream's own.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        self.reach.is_own(url)
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
        self.noted(answer.unwrap_or(Err(UpstreamError::TimedOut)))
    }

    /// As [`Self::ask`], for bytes: tried once, for as long as they may take. The caller holds a
    /// place for them.
    pub(super) async fn transfer(
        &self,
        ask: &Ask<'_>,
        within: Duration,
    ) -> Result<Response, UpstreamError> {
        let answer = async {
            self.limit.turn().await?;
            Box::pin(self.authorized(ask)).await
        };
        let answer = tokio::time::timeout(within, answer).await;
        self.noted(answer.unwrap_or(Err(UpstreamError::TimedOut)))
    }

    fn noted(&self, answer: Result<Response, UpstreamError>) -> Result<Response, UpstreamError> {
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
        let refused = response.status() == StatusCode::UNAUTHORIZED;
        if refused && !ask.payload.is_lasting() {
            let gone = "it wants other credentials for bytes that have gone";
            return Err(UpstreamError::Unavailable(gone.to_owned()));
        }
        if !refused {
            return self.judged(response, ask.push).await;
        }
        let shown = match Challenge::of(response.headers()) {
            Some(Challenge::Bearer { realm, service, scope: asked }) => {
                let asked = if asked.is_empty() { &scope } else { &asked };
                let url = token_url(&realm, &service, asked, self.reach.base(), &self.realms);
                let Some(url) = url else {
                    tracing::warn!(upstream = %self.reach.base(), "token server is not among the realms");
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
        self.judged(response, ask.push).await
    }

    /// Sends, and follows redirects while there is something to send again. A push keeps its
    /// method: others than 307 and 308 would not.
    async fn follow(&self, ask: &Ask<'_>, shown: &Shown) -> Result<Response, UpstreamError> {
        let wrong = |what: &str| UpstreamError::BadAnswer(what.to_owned());
        let mut url = match &ask.to {
            To::Location(url) => url.clone(),
            To::Path(path) => {
                let path = format!("/v2/{}/{path}", ask.repository);
                self.reach.base().join(&path).map_err(|_| wrong("path is none"))?
            }
        };
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.reach.way(&url)?.request(ask.method.clone(), url.clone());
            request = request.headers(ask.headers.clone());
            if let Some(value) = self.authorization(shown, &url) {
                request = request.header(AUTHORIZATION, value);
            }
            if let Some(body) = ask.payload.body() {
                request = request.body(body);
            }
            let response = request.send().await?;
            let status = response.status().as_u16();
            let redirects = match status {
                307 | 308 => ask.payload.is_lasting(),
                301..=303 => !ask.push,
                _ => false,
            };
            if !redirects {
                return Ok(response);
            }
            let next = location(&url, &response);
            url = next.ok_or_else(|| wrong("redirect leads nowhere"))?;
        }
        Err(wrong("too many redirects"))
    }

    /// Nothing for anybody but the upstream itself.
    fn authorization(&self, shown: &Shown, url: &Url) -> Option<HeaderValue> {
        if !self.reach.is_own(url) {
            return None;
        }
        match shown {
            Shown::Nothing => None,
            Shown::Basic => self.credentials.as_ref()?.basic(),
            Shown::Token(token) => token.text.bearer(),
        }
    }

    async fn fetch_token(&self, url: Url) -> Result<Token, UpstreamError> {
        let mut request = self.reach.known().get(url);
        if let Some(basic) = self.credentials.as_ref().and_then(Credentials::basic) {
            request = request.header(AUTHORIZATION, basic);
        }
        let response = request.send().await?;
        match response.status().as_u16() {
            200 => {}
            429 => {
                let error = limited(response.headers());
                self.heed(&error);
                return Err(error);
            }
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

    /// As [`judge`]; an upstream that wants to be left alone is.
    async fn judged(&self, response: Response, push: bool) -> Result<Response, UpstreamError> {
        let judged = judge(response, push).await;
        judged.inspect_err(|error| self.heed(error))
    }

    fn heed(&self, error: &UpstreamError) {
        if let UpstreamError::Limited { retry_after_s: seconds @ 1.. } = *error {
            self.limit.pause(seconds);
        }
    }
}

/// Where an answer from `url` leads.
pub(super) fn location(url: &Url, response: &Response) -> Option<Url> {
    let next = response.headers().get(LOCATION)?.to_str().ok()?;
    url.join(next).ok()
}
