//! TODO(methods)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {}

impl MethodError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
