//! What the inputs of a program must be, whichever engine runs it.

use super::{EngineError, Feed};
use crate::graph::{Dim, Graph};
use crate::tensor::{DType, Tensor};

/// The size that an input dimension must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(usize),
    /// Free, but the same wherever this number stands.
    Free(usize),
}

/// What an input must be.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) dims: Vec<Size>,
}

/// Describes the inputs: which sizes are fixed, and which free ones go together.
pub(super) fn of(graph: &Graph, pins: &[(Dim, usize)]) -> Vec<Input> {
    let mut free: Vec<Dim> = Vec::new();
    let mut size = |dim: &Dim| match pins.iter().find(|(pinned, _)| pinned == dim) {
        Some(&(_, n)) => Size::Fixed(n),
        None => match dim.constant() {
            Some(n) => Size::Fixed(n),
            None => Size::Free(free.iter().position(|d| d == dim).unwrap_or_else(|| {
                free.push(*dim);
                free.len() - 1
            })),
        },
    };
    graph
        .inputs
        .iter()
        .map(|&v| {
            let value = graph.value(v);
            let dims = value.shape.iter().map(&mut size).collect();
            Input { name: value.name.clone(), dtype: value.dtype, dims }
        })
        .collect()
}

/// A feed that fits.
pub(super) enum Checked<'f, B> {
    Tensor(&'f Tensor),
    Bound(&'f B),
}

/// Refuses feeds that are not what `inputs` say; `kind` tells what a bound one, a `B`, is.
pub(super) fn check<'f, B: 'static>(
    inputs: &[Input],
    feeds: &[Feed<'f>],
    kind: impl Fn(&B) -> (DType, &[usize]),
) -> Result<Vec<Checked<'f, B>>, EngineError> {
    if let Some(missing) = inputs.get(feeds.len()) {
        return Err(refused(&missing.name, "it is missing"));
    }
    if feeds.len() > inputs.len() {
        let reason = format!("the program has {} inputs only", inputs.len());
        return Err(refused(&(feeds.len() - 1).to_string(), &reason));
    }
    let mut free = Free::default();
    let one = |(input, feed): (&Input, &Feed<'f>)| match feed {
        Feed::Tensor(t) => {
            free.check(input, t.dtype(), t.shape())?;
            Ok(Checked::Tensor(t))
        }
        Feed::Bound(b) => {
            let bound = b.as_any().downcast_ref();
            let bound =
                bound.ok_or_else(|| refused(&input.name, "it was bound by another engine"))?;
            let (dtype, shape) = kind(bound);
            free.check(input, dtype, shape)?;
            Ok(Checked::Bound(bound))
        }
    };
    inputs.iter().zip(feeds).map(one).collect()
}

/// The free sizes, as the inputs of one run define them.
#[derive(Default)]
struct Free(Vec<Option<usize>>);

impl Free {
    fn check(&mut self, input: &Input, have: DType, shape: &[usize]) -> Result<(), EngineError> {
        let want = input.dtype;
        if have != want {
            let reason = format!("it holds {have} elements, not {want}");
            return Err(refused(&input.name, &reason));
        }
        if shape.len() != input.dims.len() {
            let reason = format!("it has {} dimensions, not {}", shape.len(), input.dims.len());
            return Err(refused(&input.name, &reason));
        }
        for (axis, (&size, &dim)) in shape.iter().zip(&input.dims).enumerate() {
            let want = match dim {
                Size::Fixed(want) => want,
                Size::Free(_) if size == 0 => {
                    return Err(refused(&input.name, &format!("dimension {axis} is empty")));
                }
                Size::Free(i) => {
                    self.0.resize(self.0.len().max(i + 1), None);
                    *self.0[i].get_or_insert(size)
                }
            };
            if size != want {
                let reason = format!("dimension {axis} is {size}, not {want}: shape {shape:?}");
                return Err(refused(&input.name, &reason));
            }
        }
        Ok(())
    }
}

pub(super) fn refused(name: &str, reason: &str) -> EngineError {
    EngineError::Input { name: name.to_owned(), reason: reason.to_owned() }
}
