//! Which engine runs the programs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use edge_tune::Error;
use edge_tune::backbone::Backbone;
use edge_tune::engine::tract::TractEngine;
use edge_tune::engine::{Compute, Engine, Prepacked};

use crate::output::usage;

const VARIABLE: &str = "EDGE_TUNE_ENGINE";

#[derive(Args)]
#[command(next_help_heading = "General options")]
pub struct EngineArg {
    /// tract, or ort for ONNX Runtime; $EDGE_TUNE_ENGINE or tract by default.
    #[arg(long, global = true, value_name = "NAME", hide_possible_values = true)]
    engine: Option<Name>,
    /// The library of ONNX Runtime, for the engine ort; $ORT_DYLIB_PATH by default.
    #[arg(long, global = true, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// What runs predictions on the engine ort: cpu for ONNX Runtime's own kernels, or xnnpack, coreml,
    /// nnapi, qnn, cuda, openvino, directml, webgpu where its library has them.
    #[arg(long, global = true, value_name = "NAME")]
    provider: Option<String>,
    /// Products with int8 and int4 weights: f32, or int8, which is faster and less exact; what the
    /// backbone was prepared with (prepare --compute), or f32, by default.
    #[arg(long, global = true, value_name = "TYPE", hide_possible_values = true)]
    compute: Option<Number>,
    /// Keep the weights in this folder once more, in the order in which the processor multiplies them:
    /// faster, for as many bytes of storage; for --compute int8.
    #[arg(long, global = true, value_name = "DIR")]
    prepacked: Option<PathBuf>,
    /// Threads of the engine; all cores by default.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    Tract,
    Ort,
}

#[derive(Clone, Copy, ValueEnum)]
enum Number {
    F32,
    Int8,
}

impl EngineArg {
    /// The engine for `backbone`, which may want products to be computed in its own way.
    pub fn engine(&self, backbone: Option<&Backbone>) -> anyhow::Result<Arc<dyn Engine>> {
        let usual = backbone.and_then(|b| b.manifest().compute);
        let compute = self.compute().or(usual).unwrap_or_default();
        let prepacked = match (&self.prepacked, backbone) {
            (Some(folder), Some(backbone)) if compute == Compute::Int8 => {
                Prepacked::open(folder, backbone.graph(), backbone.digest()).map_err(Error::from)?
            }
            (Some(_), Some(_)) => return Err(usage("--prepacked is for --compute int8")),
            _ => None,
        };
        let all = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = self.threads.unwrap_or(all);
        match self.name()? {
            Name::Tract if self.ort_library.is_some() => {
                Err(usage("--ort-library is for --engine ort"))
            }
            Name::Tract if self.provider.is_some() => Err(usage("--provider is for --engine ort")),
            Name::Tract => {
                let engine = TractEngine::with_threads(threads).with_compute(compute);
                Ok(Arc::new(match prepacked {
                    Some(prepacked) => engine.with_prepacked(prepacked),
                    None => engine,
                }))
            }
            Name::Ort => self.ort(threads, compute, prepacked),
        }
    }

    /// What was asked for.
    pub fn compute(&self) -> Option<Compute> {
        self.compute.map(|compute| match compute {
            Number::F32 => Compute::F32,
            Number::Int8 => Compute::Int8,
        })
    }

    fn name(&self) -> anyhow::Result<Name> {
        if let Some(name) = self.engine {
            return Ok(name);
        }
        match std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            None => Ok(Name::Tract),
            Some(text) => {
                let text = text.to_string_lossy();
                Name::from_str(&text, false)
                    .map_err(|_| usage(format!("${VARIABLE} is {text}, not tract or ort")))
            }
        }
    }

    #[cfg(feature = "ort")]
    fn ort(
        &self,
        threads: usize,
        compute: Compute,
        prepacked: Option<Prepacked>,
    ) -> anyhow::Result<Arc<dyn Engine>> {
        use edge_tune::engine::ort::{OrtEngine, Provider};
        let all = || Provider::ALL.map(Provider::name).join(", ");
        let find = |name: &String| {
            let wrong = || usage(format!("--provider is {name}, not one of {}", all()));
            Provider::find(name).ok_or_else(wrong)
        };
        let provider = self.provider.as_ref().map(find).transpose()?;
        let engine = OrtEngine::load(self.ort_library.as_deref(), threads);
        let mut engine = engine.map_err(Error::from)?.with_compute(compute);
        if let Some(prepacked) = prepacked {
            engine = engine.with_prepacked(prepacked);
        }
        if let Some(provider) = provider {
            engine = engine.with_provider(provider).map_err(Error::from)?;
        }
        Ok(Arc::new(engine))
    }

    #[cfg(not(feature = "ort"))]
    fn ort(&self, _: usize, _: Compute, _: Option<Prepacked>) -> anyhow::Result<Arc<dyn Engine>> {
        Err(usage("this program was built without the engine ort; build it with --features ort"))
    }
}
