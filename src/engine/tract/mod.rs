//! The default engine: pure Rust, over tract.
//!
//! [`TractEngine`] hands a graph to tract node by node. Frozen weights never become tensors of
//! tract: two operators of ours hold them where they are mapped and read them while running, so a
//! program costs memory for its small constants only, and any number of programs share one
//! backbone.

mod convert;
mod frozen_gather;
mod frozen_linear;
mod fused;
mod lower;
mod order;
mod program;
mod typed;

use std::sync::Arc;

use tract_linalg::multithread::Executor;
use tract_onnx::prelude::{IntoArcTensor, RunOptions, TractResult};

use super::{Bound, Compute, Engine, EngineError, Prepacked, Products, Program, executor, inputs};
use crate::graph::{Dim, Graph};
use crate::tensor::Tensor;
use program::{TractBound, TractProgram};

const NAME: &str = "tract";

/// Compiles graphs with tract.
///
/// Cloning shares the threads.
#[derive(Clone, Debug)]
pub struct TractEngine {
    threads: usize,
    executor: Executor,
    products: Products,
}

impl TractEngine {
    /// Runs every program on the thread that asks for it.
    pub fn new() -> TractEngine {
        TractEngine::with_threads(1)
    }

    /// Spreads large products over `threads` threads, which all programs of this engine share.
    /// More than the machine has are not started.
    pub fn with_threads(threads: usize) -> TractEngine {
        let (threads, executor) = executor(threads);
        TractEngine { threads, executor, products: Products::default() }
    }

    /// The same with another way to compute products with frozen weights.
    #[must_use]
    pub fn with_compute(self, compute: Compute) -> TractEngine {
        TractEngine { products: Products { compute, ..self.products }, ..self }
    }

    /// The same over weights that are kept in the order in which the processor multiplies them in int8.
    #[must_use]
    pub fn with_prepacked(self, prepacked: Prepacked) -> TractEngine {
        let prepacked = Some(prepacked);
        TractEngine { products: Products { prepacked, ..self.products }, ..self }
    }

    fn plan(&self, graph: &Graph, pins: &[(Dim, usize)]) -> TractResult<TractProgram> {
        let inputs = inputs::of(graph, pins);
        let model = lower::lower(graph, &inputs, &self.products)?.into_optimized()?;
        let options = RunOptions { executor: Some(self.executor.clone()), ..Default::default() };
        Ok(TractProgram::new(inputs, order::plan(model, &options)?))
    }
}

impl Default for TractEngine {
    fn default() -> TractEngine {
        TractEngine::new()
    }
}

impl Engine for TractEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compute(&self) -> Compute {
        self.products.compute
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn narrowed(&self, threads: usize) -> Arc<dyn Engine> {
        if threads >= self.threads {
            return Arc::new(self.clone());
        }
        let products = self.products.clone();
        Arc::new(TractEngine { products, ..TractEngine::with_threads(threads) })
    }

    fn compile(
        &self,
        graph: &Graph,
        pins: &[(Dim, usize)],
    ) -> Result<Arc<dyn Program>, EngineError> {
        match self.plan(graph, pins) {
            Ok(program) => Ok(Arc::new(program)),
            Err(e) => Err(EngineError::Compile { engine: NAME, reason: format!("{e:#}") }),
        }
    }

    fn bind(&self, tensor: &Tensor) -> Result<Arc<dyn Bound>, EngineError> {
        match convert::to_tract(tensor) {
            Ok(t) => {
                let dtype = tensor.dtype();
                Ok(Arc::new(TractBound { tensor: t.into_arc_tensor(), dtype }))
            }
            Err(e) => Err(EngineError::Input { name: "(bound)".into(), reason: format!("{e:#}") }),
        }
    }
}
