//! A frozen tensor inside one of our operators: shared with the backbone, never copied.

use std::fmt;

use tract_onnx::prelude::TractResult;

use crate::tensor::{Element, Tensor};

/// Two are equal if they share their bytes, which is what tract asks to merge equal nodes:
/// comparing megabytes would not be worth it.
#[derive(Clone)]
pub(super) struct Stored(pub(super) Tensor);

impl Stored {
    pub(super) fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    pub(super) fn as_slice<T: Element>(&self) -> TractResult<&[T]> {
        Ok(self.0.as_slice()?)
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Stored) -> bool {
        let (a, b) = (&self.0, &other.0);
        a.dtype() == b.dtype()
            && a.shape() == b.shape()
            && std::ptr::eq(a.bytes().as_ptr(), b.bytes().as_ptr())
    }
}

impl Eq for Stored {}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.0.dtype(), self.0.shape())
    }
}
