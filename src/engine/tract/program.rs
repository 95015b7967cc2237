use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::TypedSimpleState;

use super::{NAME, convert};
use crate::engine::inputs::{self, Checked, Input, refused};
use crate::engine::{Bound, EngineError, Feed, Program};
use crate::tensor::{DType, Tensor as Ours};

/// A tensor as tract takes it.
pub(super) struct TractBound {
    pub(super) tensor: Arc<Tensor>,
    pub(super) dtype: DType,
}

impl Bound for TractBound {
    fn bytes(&self) -> usize {
        self.tensor.len() * self.dtype.size()
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
        let checked =
            inputs::check(&self.inputs, feeds, |b: &TractBound| (b.dtype, b.tensor.shape()))?;
        let value = |(input, feed): (&Input, Checked<'_, TractBound>)| match feed {
            Checked::Tensor(t) => {
                let copy = convert::to_tract(t);
                Ok(copy.map_err(|e| refused(&input.name, &format!("{e:#}")))?.into_tvalue())
            }
            Checked::Bound(b) => Ok(b.tensor.clone().into_tvalue()),
        };
        self.inputs.iter().zip(checked).map(value).collect()
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
