//! ONNX Runtime, loaded from its shared library while running.
//!
//! [`OrtEngine`] hands a graph to ONNX Runtime as a model in memory. Frozen weights never become
//! tensors of it: products with them and rows of tables are operators of ours, over the mapped
//! file, as in the engine `tract`.

mod arena;
mod lower;
mod operators;
mod plain;
mod program;
mod provider;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use tract_linalg::multithread::Executor;

use super::{
    Bound, Compute, Engine, EngineError, Prepacked, Products, Program, executor, inputs,
    parallelism,
};
use crate::graph::{Dim, Graph};
use crate::tensor::Tensor;
use lower::Lowered;
use program::{OrtBound, OrtProgram};
pub use provider::Provider;

const NAME: &str = "ort";
/// Names the shared library where no path is given.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// A process has one ONNX Runtime: the library that was loaded first.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Whether a session was built. ONNX Runtime adds the name of our operators to a table of the process
/// with the first one, and refuses that of a second thread that adds it at the same moment.
static BUILT: Mutex<bool> = Mutex::new(false);

/// Runs graphs with ONNX Runtime.
///
/// Cloning shares the library and the threads for frozen products.
#[derive(Clone)]
pub struct OrtEngine {
    environment: Environment,
    threads: usize,
    executor: Executor,
    products: Products,
    provider: Option<Provider>,
}

impl OrtEngine {
    /// Loads ONNX Runtime from `library`, or from where the environment variable
    /// [`LIBRARY_VARIABLE`] says; programs run on `threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Library`] if there is no such library, it is too old, or another one is
    /// loaded already.
    pub fn load(library: Option<&Path>, threads: usize) -> Result<OrtEngine, EngineError> {
        let environment = environment(library)?;
        let (threads, executor) = executor(threads);
        Ok(OrtEngine {
            environment,
            threads,
            executor,
            products: Products::default(),
            provider: None,
        })
    }

    /// The same with another way to compute products with frozen weights.
    #[must_use]
    pub fn with_compute(self, compute: Compute) -> OrtEngine {
        OrtEngine { products: Products { compute, ..self.products }, ..self }
    }

    /// The same over weights that are kept in the order in which the processor multiplies them in int8.
    #[must_use]
    pub fn with_prepacked(self, prepacked: Prepacked) -> OrtEngine {
        let prepacked = Some(prepacked);
        OrtEngine { products: Products { prepacked, ..self.products }, ..self }
    }

    /// The same with an execution provider for forward programs. It gets the weights as tensors, which the
    /// library copies. Nodes that it cannot take run on the CPU. Programs in which a gradient passes
    /// through an operator of ours stay on these operators, over the mapped weights.
    ///
    /// # Errors
    /// [`EngineError::Provider`] if the library was built without it.
    pub fn with_provider(self, provider: Provider) -> Result<OrtEngine, EngineError> {
        if provider.available() {
            return Ok(OrtEngine { provider: Some(provider), ..self });
        }
        let available = Provider::ALL.into_iter().filter(|p| p.available());
        let available = available.map(Provider::name).collect();
        Err(EngineError::Provider { provider: provider.name(), available })
    }

    /// A forward program for the execution provider; none if it computes gradients.
    fn on_provider(
        &self,
        provider: Provider,
        graph: &Graph,
        pins: &[(Dim, usize)],
    ) -> Result<Option<OrtProgram>, String> {
        let Some(plain) = plain::plain(graph).map_err(|e| e.to_string())? else { return Ok(None) };
        let lowered =
            lower::lower(&plain, &self.executor, &self.products).map_err(|e| format!("{e:#}"))?;
        let accuracy = match self.products.compute {
            Compute::F32 => "1",
            Compute::Int8 => "4",
        };
        let fold = if provider.wants_floats() { "1" } else { "0" };
        let build = || -> ort::Result<Session> {
            let builder = self
                .builder()?
                // How ONNX Runtime's own kernels compute with stored integers.
                .with_config_entry("session.qdq_matmulnbits_accuracy_level", accuracy)?
                // With 1, constants behind a DequantizeLinear are folded.
                .with_config_entry("session.disable_quant_qdq", fold)?;
            let builder = provider.add(builder, self.threads, self.products.compute)?;
            pinned(builder, &lowered.dims, pins)?.commit_from_memory(&lowered.model)
        };
        let session = build().map_err(|e| format!("execution provider {provider}: {e}"))?;
        Ok(Some(program(graph, pins, session)))
    }

    /// What all sessions have in common.
    fn builder(&self) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.threads)?
            // Errors come back as values.
            .with_log_level(LogLevel::Fatal)?
            // Threads that wait for work would take it from those that have some.
            .with_intra_op_spinning(false)?
            // Memory for all sizes that were ever seen.
            .with_memory_pattern(false)?;
        Ok(builder)
    }

    fn session(&self, lowered: &Lowered, pins: &[(Dim, usize)]) -> Result<Session, String> {
        let build = || -> ort::Result<Session> {
            let builder = self
                .builder()?
                // Copies of weights in another layout.
                .with_prepacking(false)?
                .with_env_allocators()?
                .with_operators(operators::domain(lowered.frozen.clone())?)?;
            pinned(builder, &lowered.dims, pins)?.commit_from_memory(&lowered.model)
        };
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let session = if *built {
            drop(built);
            build()
        } else {
            let first = build();
            *built = first.is_ok();
            first
        };
        session.map_err(|e| e.to_string())
    }

    fn program(&self, graph: &Graph, pins: &[(Dim, usize)]) -> Result<OrtProgram, String> {
        if let Some(provider) = self.provider
            && let Some(program) = self.on_provider(provider, graph, pins)?
        {
            return Ok(program);
        }
        let lowered =
            lower::lower(graph, &self.executor, &self.products).map_err(|e| format!("{e:#}"))?;
        let program = program(graph, pins, self.session(&lowered, pins)?);
        let most = parallelism() / self.threads;
        if most < 2 {
            return Ok(program);
        }
        let (engine, pins) = (self.clone(), pins.to_vec());
        Ok(program.with_sessions(most, move || engine.session(&lowered, &pins)))
    }
}

/// With the sizes of the dimensions that do not vary.
fn pinned(
    mut builder: SessionBuilder,
    names: &HashMap<Dim, String>,
    pins: &[(Dim, usize)],
) -> ort::Result<SessionBuilder> {
    for (dim, size) in pins {
        if let Some(name) = names.get(dim) {
            builder = builder.with_dimension_override(name, *size as i64)?;
        }
    }
    Ok(builder)
}

fn program(graph: &Graph, pins: &[(Dim, usize)], session: Session) -> OrtProgram {
    let outputs = graph.outputs.iter().map(|&v| graph.value(v).name.clone()).collect();
    OrtProgram::new(inputs::of(graph, pins), outputs, session)
}

impl Engine for OrtEngine {
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
        let (threads, executor) = executor(threads);
        Arc::new(OrtEngine { threads, executor, ..self.clone() })
    }

    fn compile(
        &self,
        graph: &Graph,
        pins: &[(Dim, usize)],
    ) -> Result<Arc<dyn Program>, EngineError> {
        match self.program(graph, pins) {
            Ok(program) => Ok(Arc::new(program)),
            Err(reason) => Err(EngineError::Compile { engine: NAME, reason }),
        }
    }

    fn bind(&self, tensor: &Tensor) -> Result<Arc<dyn Bound>, EngineError> {
        Ok(Arc::new(OrtBound(tensor.clone())))
    }
}

/// The environment of the process, with the library loaded the first time.
fn environment(library: Option<&Path>) -> Result<Environment, EngineError> {
    let named = || std::env::var_os(LIBRARY_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = library.map(Path::to_owned).or_else(named);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((first, environment)) = &*loaded {
        return match path {
            Some(path) if absolute(&path) != *first => {
                let reason = format!("the library {} is loaded already", first.display());
                Err(EngineError::Library { path, reason })
            }
            _ => Ok(environment.clone()),
        };
    }
    let Some(path) = path else {
        let reason = format!("no path was given, and {LIBRARY_VARIABLE} is not set");
        return Err(EngineError::Library { path: PathBuf::from("libonnxruntime"), reason });
    };
    let path = absolute(&path);
    let failed = |reason: String| EngineError::Library { path: path.clone(), reason };
    if !path.is_file() {
        return Err(failed("there is no such file".into()));
    }
    let builder = ort::init_from(&path).map_err(|e| failed(e.to_string()))?;
    let environment = builder.with_name("edge-tune").with_telemetry(false).build();
    let environment = environment.map_err(|e| failed(e.to_string()))?;
    environment.set_log_level(LogLevel::Fatal);
    arena::register(&environment).map_err(failed)?;
    *loaded = Some((path.clone(), environment.clone()));
    Ok(environment)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
