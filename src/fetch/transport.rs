//! The seam between what is fetched and how: everything above it sees only this trait.

use std::io::Read;

use super::FetchError;

/// One GET request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// The address.
    pub url: &'a str,
    /// Ask for the content only if it is no longer this version.
    pub if_none_match: Option<&'a str>,
    /// Ask for what lies from this byte on; 0 asks for everything.
    pub from: u64,
    /// Ask for a part only if the content is still this version, for all of it otherwise.
    pub if_range: Option<&'a str>,
}

/// An answer. Nothing in it can be trusted.
pub struct Response {
    /// 200: everything, 206: the part that was asked for, 304: not changed, and so on.
    pub status: u16,
    /// Name of the version of the content.
    pub etag: Option<String>,
    /// Bytes that the body is said to have.
    pub length: Option<u64>,
    /// Where the part starts, with status 206.
    pub from: Option<u64>,
    /// The content.
    pub body: Box<dyn Read + Send>,
}

/// A way to get files.
pub trait Transport: Send + Sync {
    /// Sends a request and returns the answer, of whatever status. Redirects are followed.
    ///
    /// # Errors
    /// [`FetchError::Unreachable`] or [`FetchError::Stalled`] if no answer came.
    fn get(&self, request: &Request<'_>) -> Result<Response, FetchError>;
}
