//! Tries an upstream out: whether it answers, and whether its token server lets this registry in.
//!
//! It asks for no repository, and keeps no token.

use http::StatusCode;
use http::header::AUTHORIZATION;

use super::{Client, Shown, TRY_TIMEOUT};
use crate::upstream::challenge::{Challenge, token_url};
use crate::upstream::error::UpstreamError;

impl Client {
    /// What is well, in a few words.
    pub(in crate::upstream) async fn try_out(&self) -> Result<&'static str, UpstreamError> {
        let tried = tokio::time::timeout(TRY_TIMEOUT, self.knock()).await;
        tried.unwrap_or(Err(UpstreamError::TimedOut))
    }

    async fn knock(&self) -> Result<&'static str, UpstreamError> {
        let challenge = match self.base_with(&Shown::Nothing).await? {
            Ok(()) => return Ok("answers, and asks nobody who they are"),
            Err(challenge) => challenge,
        };
        match challenge {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let url = token_url(&realm, &service, &scope, self.reach.base(), &self.realms);
                let elsewhere =
                    || UpstreamError::BadAnswer("its token server is not among realms".to_owned());
                self.fetch_token(url.ok_or_else(elsewhere)?).await?;
                Ok("answers, and gives this registry tokens")
            }
            Some(Challenge::Basic) if self.credentials.is_some() => {
                match self.base_with(&Shown::Basic).await? {
                    Ok(()) => Ok("answers, and takes the credentials"),
                    Err(_) => Err(UpstreamError::Denied),
                }
            }
            _ => Err(UpstreamError::Denied),
        }
    }

    /// `GET /v2/`; with 401 what is asked for.
    async fn base_with(
        &self,
        shown: &Shown,
    ) -> Result<Result<(), Option<Challenge>>, UpstreamError> {
        let url = self.reach.base().join("/v2/");
        let url = url.map_err(|_| UpstreamError::BadAnswer("url has no path".to_owned()))?;
        let mut request = self.reach.known().get(url.clone());
        if let Some(value) = self.authorization(shown, &url) {
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await?;
        match response.status() {
            StatusCode::OK => Ok(Ok(())),
            StatusCode::UNAUTHORIZED => Ok(Err(Challenge::of(response.headers()))),
            StatusCode::FORBIDDEN => Err(UpstreamError::Denied),
            other => Err(UpstreamError::BadAnswer(format!("/v2/ is {}", other.as_u16()))),
        }
    }
}
