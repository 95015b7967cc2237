//! TODO(runtime)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {}

impl RuntimeError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
