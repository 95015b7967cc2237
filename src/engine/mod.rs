//! Engines compile a [`Graph`] into a [`Program`] and run it.

mod inputs;
mod kernels;
#[cfg(feature = "ort")]
pub mod ort;
pub mod tract;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use kernels::Prepacked;

use crate::graph::Graph;
use crate::tensor::Tensor;

/// A program could not be compiled or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine refused the graph.
    #[error("engine {engine} cannot compile the program: {reason}")]
    Compile {
        /// Engine name.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The program failed while running.
    #[error("engine {engine} failed while running: {reason}")]
    Run {
        /// Engine name.
        engine: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The engine's shared library could not be loaded.
    #[error(
        "cannot load ONNX Runtime from {}: {reason}; get it with tools/get-onnxruntime.sh and name \
         it with --ort-library or ORT_DYLIB_PATH",
        path.display()
    )]
    Library {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The library of ONNX Runtime lacks an execution provider.
    #[error(
        "ONNX Runtime was built without the execution provider {provider}; it has {}",
        available.join(", ")
    )]
    Provider {
        /// What was asked for.
        provider: &'static str,
        /// Those that it has.
        available: Vec<&'static str>,
    },
    /// Weights cannot be kept in the order in which the processor multiplies them.
    #[error("cannot keep prepacked weights in {}: {reason}; name another folder or do without", path.display())]
    Prepacked {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller passed other inputs than the program has.
    #[error("input `{name}`: {reason}")]
    Input {
        /// Input name, or its position.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl EngineError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::Compile { .. } => "engine.compile",
            EngineError::Run { .. } => "engine.run",
            EngineError::Library { .. } => "engine.library",
            EngineError::Provider { .. } => "engine.provider",
            EngineError::Prepacked { .. } => "engine.prepacked",
            EngineError::Input { .. } => "engine.input",
        }
    }
}

/// An input in the form the engine wants, made once and passed to many runs without a copy: the
/// tensors of a delta.
pub trait Bound: Send + Sync {
    /// Bytes this takes.
    fn bytes(&self) -> usize;
    /// For the engine that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// One input of a run.
#[derive(Clone)]
pub enum Feed<'a> {
    /// A tensor that the engine copies or borrows for this run.
    Tensor(&'a Tensor),
    /// A value bound before with [`Engine::bind`].
    Bound(&'a Arc<dyn Bound>),
}

/// Threads that the machine runs at once.
fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Number of threads, at most those of the machine, and what spreads products over them.
fn executor(threads: usize) -> (usize, tract_linalg::multithread::Executor) {
    use tract_linalg::multithread::Executor;
    match threads.min(parallelism()) {
        0 | 1 => (1, Executor::SingleThread),
        n => (n, Executor::multithread_with_name(n, "edge-tune")),
    }
}

/// How products with frozen weights are computed, and from what.
#[derive(Clone, Debug, Default)]
struct Products {
    compute: Compute,
    prepacked: Option<Prepacked>,
}

/// How products with frozen int8 and int4 weights are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// In f32, with the weights as they are stored.
    #[default]
    F32,
    /// In int8: each row of x is rounded to 255 steps of its own size, and sums are exact; gradients
    /// are rounded twice and keep 15 bits. Faster where the processor multiplies bytes (VNNI, the dot
    /// products of ARM), and less exact; in f32 where it does not.
    Int8,
}

impl std::fmt::Display for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Compute::F32 => "f32",
            Compute::Int8 => "int8",
        })
    }
}

/// Turns graphs into programs. Engines are cheap to share and hold no state of a task.
pub trait Engine: Send + Sync {
    /// A short name: `tract` or `ort`.
    fn name(&self) -> &'static str;

    /// How it computes products with frozen int8 weights.
    fn compute(&self) -> Compute {
        Compute::F32
    }

    /// Threads that each run is spread over.
    fn threads(&self) -> usize {
        1
    }

    /// The same engine with at most `threads` threads for each run, for callers that run several side by
    /// side.
    fn narrowed(&self, threads: usize) -> Arc<dyn Engine>;

    /// Compiles `graph`. Frozen weights stay where they are mapped. A dimension that varies over
    /// the probe points stays free, except those in `pins`, which get the given size.
    ///
    /// # Errors
    /// [`EngineError::Compile`].
    fn compile(
        &self,
        graph: &Graph,
        pins: &[(crate::graph::Dim, usize)],
    ) -> Result<Arc<dyn Program>, EngineError>;

    /// Puts a tensor into the form this engine passes without a copy.
    ///
    /// # Errors
    /// [`EngineError::Input`] for an element type the engine lacks.
    fn bind(&self, tensor: &Tensor) -> Result<Arc<dyn Bound>, EngineError>;
}

/// A compiled graph. Many threads may run one program at once.
pub trait Program: Send + Sync {
    /// Input names, in the order [`Program::run`] wants them: that of `graph.inputs`.
    fn inputs(&self) -> &[String];

    /// Runs once and returns the outputs in the order of `graph.outputs`.
    ///
    /// # Errors
    /// [`EngineError::Input`] or [`EngineError::Run`].
    fn run(&self, inputs: &[Feed<'_>]) -> Result<Vec<Tensor>, EngineError>;
}
