//! TODO(delta)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {}

impl DeltaError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
