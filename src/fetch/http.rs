//! HTTP and HTTPS by `ureq`, with certificates that Mozilla's list vouches for.

use std::io::{self, Read};
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, header};

use super::transport::{Request, Response, Transport};
use super::{FetchError, url};

const MAX_REDIRECTS: usize = 5;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Files of a web server.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    allow_http: bool,
}

impl Http {
    /// A client that gives up where nothing comes for `timeout`. With `allow_http` it follows
    /// `http://` to other machines too.
    pub fn new(timeout: Duration, allow_http: bool) -> Http {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Each step is checked here instead.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEADER_BYTES)
            .timeout_connect(Some(timeout))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .user_agent(concat!("edge-tune/", env!("CARGO_PKG_VERSION")))
            .build();
        Http { agent: config.new_agent(), allow_http }
    }
}

impl Transport for Http {
    fn get(&self, request: &Request<'_>) -> Result<Response, FetchError> {
        let mut at = request.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            url::check(&at, self.allow_http)?;
            let mut call = self.agent.get(&at);
            if let Some(etag) = request.if_none_match {
                call = call.header(header::IF_NONE_MATCH, etag);
            }
            if request.from > 0 {
                call = call.header(header::RANGE, format!("bytes={}-", request.from));
                if let Some(etag) = request.if_range {
                    call = call.header(header::IF_RANGE, etag);
                }
            }
            let answer = call.call().map_err(|e| failed(request.url, &e))?;
            let status = answer.status().as_u16();
            let (parts, body) = answer.into_parts();
            if matches!(status, 301 | 302 | 303 | 307 | 308) {
                let to = text(&parts.headers, header::LOCATION).unwrap_or_default();
                at = url::redirect(&at, &to, self.allow_http)?;
                continue;
            }
            return Ok(Response {
                status,
                etag: text(&parts.headers, header::ETAG),
                length: body.content_length(),
                from: text(&parts.headers, header::CONTENT_RANGE).and_then(|r| range_start(&r)),
                body: Box::new(Body(body.into_reader())),
            });
        }
        let reason = format!("more than {MAX_REDIRECTS} redirects");
        Err(FetchError::Url { url: request.url.into(), reason })
    }
}

/// A body whose silence is an error of the kind [`io::ErrorKind::TimedOut`].
struct Body<R>(R);

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| match ureq::Error::from(e) {
            ureq::Error::Io(e) => e,
            ureq::Error::Timeout(_) => io::ErrorKind::TimedOut.into(),
            other => io::Error::other(other),
        })
    }
}

fn failed(url: &str, error: &ureq::Error) -> FetchError {
    match error {
        ureq::Error::Timeout(_) => FetchError::Stalled { url: url.into(), bytes: 0 },
        other => FetchError::Unreachable { url: url.into(), reason: other.to_string() },
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// `1000` of `bytes 1000-1999/2000`.
fn range_start(text: &str) -> Option<u64> {
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
