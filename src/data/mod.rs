//! TODO(data)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {}

impl DataError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
