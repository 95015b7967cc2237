//! TODO(train)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {}

impl TrainError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
