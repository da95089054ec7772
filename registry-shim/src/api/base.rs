//! `/v2/`: "this is a registry, and you may talk to it".

use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};

use super::{Answer, Body, Call};

pub(super) fn get(call: &Call<'_>) -> Answer {
    call.authorize_base()?;
    let mut response = Response::new(Body::Full(bytes::Bytes::from_static(b"{}")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("2"));
    Ok(response)
}
