use std::path::Path;
use std::sync::Arc;

use super::Sample;
use crate::Error;
use crate::backbone::{Backbone, BackboneError, signal, site};
use crate::data::{ArraySpec, MediaSpec, read_npy};
use crate::engine::{Engine, EngineError, Feed, Program};
use crate::graph::{Dim, onnx};
use crate::tensor::Tensor;

/// How a `.npy` file starts.
const NPY: &[u8] = b"\x93NUMPY";

/// Turns files into samples of one backbone: pictures, sounds by way of its front end, and arrays
/// that hold its input itself.
pub(super) struct Reader {
    spec: Option<MediaSpec>,
    input: ArraySpec,
    frontend: Option<Arc<dyn Program>>,
}

impl Reader {
    pub fn new(backbone: &Backbone, engine: &dyn Engine) -> Result<Reader, Error> {
        let (graph, manifest) = (backbone.graph(), backbone.manifest());
        let input = site(graph, &backbone.sites().input)?;
        let shape = graph.shape(input).iter().skip(1).map(|d| d.constant().unwrap_or(1)).collect();
        let frontend = match &manifest.frontend {
            Some(file) => {
                let graph = onnx::read(&backbone.dir().join(file)).map_err(BackboneError::from)?;
                Some(engine.compile(&graph, &[(Dim::BATCH, 1)])?)
            }
            None => None,
        };
        Ok(Reader { spec: manifest.preprocess.clone(), input: ArraySpec { shape }, frontend })
    }

    /// Fixed pattern number `seed`.
    pub fn pattern(&self, seed: u32) -> Result<Sample, Error> {
        let shape = &self.input.shape;
        let value = |i: usize| signal((i as u32).wrapping_add(seed << 20));
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        Ok(Sample::Dense(Tensor::new(shape, &values)?))
    }

    /// The sample in the `bytes` of a file; `path` is for messages.
    pub fn read(&self, bytes: &[u8], path: &Path) -> Result<Sample, Error> {
        let spec = match &self.spec {
            Some(spec) if !bytes.starts_with(NPY) => spec,
            // Without a specification nothing else is known to fit.
            _ => return Ok(Sample::Dense(self.input.tensor(&read_npy(bytes, path)?, path)?)),
        };
        let tensor = spec.tensor(bytes, path)?;
        let Some(frontend) = &self.frontend else { return Ok(Sample::Dense(tensor)) };
        let batch: Vec<usize> = [1].iter().chain(tensor.shape()).copied().collect();
        let out = frontend.run(&[Feed::Tensor(&tensor.reshaped(&batch)?)])?;
        let features = out.first().ok_or_else(|| EngineError::Run {
            engine: "front end",
            reason: "it has no output".into(),
        })?;
        Ok(Sample::Dense(Tensor::new(&self.input.shape, features.as_slice::<f32>()?)?))
    }
}
