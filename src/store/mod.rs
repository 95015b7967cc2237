//! TODO(store)

/// TODO
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {}

impl StoreError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match *self {}
    }
}
