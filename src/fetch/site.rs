//! Mirrors of one publisher, asked in turn, each a few times.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use super::FetchError;
use super::transport::{Request, Response, Transport};
use super::url::Base;

/// How often and how quickly a request is repeated that may work a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Requests in all, at each mirror.
    pub attempts: u32,
    /// The first pause. Each further one is twice as long, and all are cut by a random part of up
    /// to a half, so that many devices do not come back at once.
    pub pause: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 4, pause: Duration::from_millis(500), longest: Duration::from_secs(20) }
    }
}

impl Retry {
    /// Waits before attempt `n`, from 1.
    pub(super) fn wait(&self, n: u32) {
        let pause = self.pause.saturating_mul(1 << n.saturating_sub(1).min(16)).min(self.longest);
        // Keys of the hasher are random; nothing here needs better.
        let random = RandomState::new().hash_one(n) as f64 / u64::MAX as f64;
        thread::sleep(pause.mul_f64(1.0 - random / 2.0));
    }
}

/// Where a publisher's files can be had.
pub(super) struct Site<'a> {
    pub(super) bases: Vec<Base>,
    pub(super) transport: &'a dyn Transport,
    pub(super) retry: Retry,
}

/// A small file, or the news that it has not changed.
pub(super) enum Small {
    Content { bytes: Vec<u8>, etag: Option<String> },
    Unchanged,
}

impl Site<'_> {
    /// The first success of `ask`, over all mirrors. What one mirror gets wrong, whether broken or
    /// hostile, the next may get right. Otherwise the error that says most.
    pub(super) fn each<T>(
        &self,
        mut ask: impl FnMut(&Base) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let mut worst: Option<FetchError> = None;
        for base in &self.bases {
            let mut attempt = 0;
            let error = loop {
                match ask(base) {
                    Ok(found) => return Ok(found),
                    Err(e) if !e.transient() => break e,
                    Err(e) => {
                        attempt += 1;
                        if attempt >= self.retry.attempts {
                            break e;
                        }
                        self.retry.wait(attempt);
                    }
                }
            };
            // A file that was refused says more than a server that is down.
            let says = |e: &FetchError| match e {
                FetchError::NotFound { .. } => 0,
                e if e.transient() => 1,
                _ => 2,
            };
            if worst.as_ref().is_none_or(|w| says(w) < says(&error)) {
                worst = Some(error);
            }
        }
        Err(worst.unwrap_or_else(|| FetchError::Url {
            url: String::new(),
            reason: "no address is known; name where to pull from".into(),
        }))
    }

    /// A file of at most `limit` bytes from one mirror.
    pub(super) fn small(
        &self,
        base: &Base,
        path: &str,
        limit: u64,
        known: Option<&str>,
    ) -> Result<Small, FetchError> {
        let url = base.join(path);
        let request = Request { url: &url, if_none_match: known, ..Request::default() };
        let mut response = self.transport.get(&request)?;
        match response.status {
            200 => {}
            304 if known.is_some() => return Ok(Small::Unchanged),
            status => return Err(status_error(&url, status)),
        }
        if response.length.is_some_and(|l| l > limit) {
            return Err(FetchError::TooLarge { url, limit });
        }
        let mut bytes = Vec::new();
        // One byte more tells a file of exactly `limit` bytes from an endless one.
        let body = &mut response.body;
        if let Err(e) = body.take(limit + 1).read_to_end(&mut bytes) {
            return Err(body_error(&url, &e, bytes.len() as u64));
        }
        if bytes.len() as u64 > limit {
            return Err(FetchError::TooLarge { url, limit });
        }
        whole(&url, &response, bytes.len() as u64)?;
        Ok(Small::Content { bytes, etag: response.etag })
    }
}

pub(super) fn status_error(url: &str, status: u16) -> FetchError {
    match status {
        404 | 410 => FetchError::NotFound { url: url.into() },
        _ => FetchError::Status { url: url.into(), status },
    }
}

/// The connection broke, or nothing came for too long, after `bytes`.
pub(super) fn body_error(url: &str, error: &io::Error, bytes: u64) -> FetchError {
    let url = url.to_owned();
    match error.kind() {
        io::ErrorKind::TimedOut => FetchError::Stalled { url, bytes },
        _ => FetchError::Unreachable { url, reason: format!("after {bytes} bytes: {error}") },
    }
}

/// Refuses a body that is shorter than its header said.
fn whole(url: &str, response: &Response, have: u64) -> Result<(), FetchError> {
    match response.length {
        Some(want) if want > have => Err(FetchError::Truncated { url: url.into(), have, want }),
        _ => Ok(()),
    }
}
