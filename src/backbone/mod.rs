//! Backbones: the frozen model directory, its manifest, and how it is made from an export.

mod compare;
mod error;
mod int4;
mod manifest;
mod prepare;
mod quantize;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use compare::signal;
pub use error::BackboneError;
pub use manifest::{
    FORMAT, FRONTEND_FILE, FileEntry, MANIFEST_FILE, MODEL_FILE, Manifest, Pooling, Report,
    TOKENIZER_FILE, WEIGHTS_FILE, Weights,
};
pub use prepare::{Prepare, prepare};

use crate::graph::sites::Sites;
use crate::graph::{Graph, ValueId, frozen, onnx};

/// A loaded backbone. Its large weights stay in the mapped file; clones share everything.
#[derive(Debug)]
pub struct Backbone {
    dir: PathBuf,
    manifest: Manifest,
    graph: Graph,
}

impl Backbone {
    /// Loads a directory that [`prepare`] wrote. Checks that every file is there with its recorded
    /// length; [`Backbone::verify`] checks the bytes.
    ///
    /// # Errors
    /// [`BackboneError`] naming the file.
    pub fn load(dir: &Path) -> Result<Arc<Backbone>, BackboneError> {
        let manifest = Manifest::read(dir)?;
        manifest.check_lengths(dir)?;
        let mut graph = onnx::read(&dir.join(MODEL_FILE))?;
        let in_model = |source| onnx::OnnxError::Graph { path: dir.join(MODEL_FILE), source };
        frozen::lift(&mut graph).map_err(in_model)?;
        let backbone = Backbone { dir: dir.to_owned(), manifest, graph };
        backbone.check_sites()?;
        Ok(Arc::new(backbone))
    }

    /// Reads every file again and compares its SHA-256 with the manifest.
    ///
    /// # Errors
    /// [`BackboneError::Digest`] naming the first file that differs.
    pub fn verify(&self) -> Result<(), BackboneError> {
        self.manifest.verify(&self.dir)
    }

    /// The directory it was loaded from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where things can attach.
    pub fn sites(&self) -> &Sites {
        &self.manifest.sites
    }

    /// SHA-256 over its files, in hexadecimal: what a delta is bound to.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// The graph, with frozen weights lifted.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn check_sites(&self) -> Result<(), BackboneError> {
        let dir = || self.dir.clone();
        self.manifest.sites.check(&self.graph).map_err(|(site, reason)| BackboneError::Site {
            dir: dir(),
            site,
            reason,
        })
    }
}

/// The value behind a site's name.
///
/// # Errors
/// [`crate::graph::GraphError::Undefined`] if the graph has no such value.
pub fn site(graph: &Graph, name: &str) -> Result<ValueId, crate::graph::GraphError> {
    graph.find(name).ok_or_else(|| crate::graph::GraphError::Undefined(name.to_owned()))
}
