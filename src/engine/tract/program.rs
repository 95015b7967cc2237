use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TypedSimpleState;

use super::lower::{Input, Size};
use super::{NAME, convert};
use crate::engine::{Bound, EngineError, Feed, Program};
use crate::tensor::Tensor as Ours;

/// A tensor as tract takes it.
pub(super) struct TractBound(pub(super) Arc<Tensor>);

impl Bound for TractBound {
    fn bytes(&self) -> usize {
        self.0.len() * self.0.datum_type().size_of()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A compiled plan.
pub(super) struct TractProgram {
    names: Vec<String>,
    inputs: Vec<Input>,
    plan: Arc<TypedRunnableModel>,
    /// States that no run uses now. They hold no tensors between runs.
    idle: Mutex<Vec<TypedSimpleState>>,
}

impl TractProgram {
    pub(super) fn new(inputs: Vec<Input>, plan: Arc<TypedRunnableModel>) -> TractProgram {
        let names = inputs.iter().map(|i| i.name.clone()).collect();
        TractProgram { names, inputs, plan, idle: Mutex::default() }
    }

    fn feed(&self, feeds: &[Feed<'_>]) -> Result<TVec<TValue>, EngineError> {
        if let Some(missing) = self.inputs.get(feeds.len()) {
            return Err(refused(&missing.name, "it is missing"));
        }
        if feeds.len() > self.inputs.len() {
            let reason = format!("the program has {} inputs only", self.inputs.len());
            return Err(refused(&(feeds.len() - 1).to_string(), &reason));
        }
        let mut free = Free::default();
        let mut values = TVec::new();
        for (input, feed) in self.inputs.iter().zip(feeds) {
            let value = match feed {
                Feed::Tensor(t) => {
                    free.check(input, convert::datum_type(t.dtype()), t.shape())?;
                    let copy = convert::to_tract(t);
                    copy.map_err(|e| refused(&input.name, &format!("{e:#}")))?.into_tvalue()
                }
                Feed::Bound(b) => {
                    let Some(TractBound(t)) = b.as_any().downcast_ref() else {
                        return Err(refused(&input.name, "it was bound by another engine"));
                    };
                    free.check(input, t.datum_type(), t.shape())?;
                    t.clone().into_tvalue()
                }
            };
            values.push(value);
        }
        Ok(values)
    }

    fn exec(&self, values: TVec<TValue>) -> TractResult<Vec<Ours>> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let state = idle().pop();
        let mut state = match state {
            Some(state) => state,
            None => self.plan.spawn()?,
        };
        // After an error the state is dropped, with whatever the run left in it.
        let outputs = state.run(values)?;
        idle().push(state);
        outputs.iter().map(|t| convert::from_tract(t)).collect()
    }
}

impl Program for TractProgram {
    fn inputs(&self) -> &[String] {
        &self.names
    }

    fn run(&self, inputs: &[Feed<'_>]) -> Result<Vec<Ours>, EngineError> {
        let values = self.feed(inputs)?;
        self.exec(values).map_err(|e| EngineError::Run { engine: NAME, reason: format!("{e:#}") })
    }
}

/// The free sizes, as the inputs of one run define them.
#[derive(Default)]
struct Free(Vec<Option<usize>>);

impl Free {
    fn check(
        &mut self,
        input: &Input,
        have: DatumType,
        shape: &[usize],
    ) -> Result<(), EngineError> {
        let want = convert::datum_type(input.dtype);
        if have != want {
            let reason = format!("it holds {have:?} elements, not {want:?}");
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

fn refused(name: &str, reason: &str) -> EngineError {
    EngineError::Input { name: name.to_owned(), reason: reason.to_owned() }
}
