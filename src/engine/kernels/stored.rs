//! A frozen tensor inside one of our operators: shared with the backbone, never copied.

use std::fmt;

use tract_onnx::tract_hir::internal::*;

use crate::graph::{Graph, Node};
use crate::tensor::{DType, Element, Tensor as Ours};

/// Two are equal if they share their bytes, which is what tract asks to merge equal nodes:
/// comparing megabytes would not be worth it.
#[derive(Clone)]
pub(in crate::engine) struct Stored(pub(in crate::engine) Ours);

impl Stored {
    /// The constant that `node` reads as input `i`.
    pub(in crate::engine) fn of(graph: &Graph, node: &Node, i: usize) -> TractResult<Stored> {
        let v = node.input(i)?;
        let name = &graph.value(v).name;
        let t = graph.constant(v).with_context(|| format!("`{name}` is no constant"))?;
        Ok(Stored(t.clone()))
    }

    /// The same, where it may be left out.
    pub(super) fn maybe(graph: &Graph, node: &Node, i: usize) -> TractResult<Option<Stored>> {
        let there = node.inputs.get(i).is_some_and(Option::is_some);
        there.then(|| Stored::of(graph, node, i)).transpose()
    }

    pub(in crate::engine) fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(super) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub(in crate::engine) fn as_slice<T: Element>(&self) -> TractResult<&[T]> {
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
