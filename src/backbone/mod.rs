//! TODO(backbone)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackboneError {}

impl BackboneError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
