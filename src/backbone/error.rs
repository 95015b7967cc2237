use std::path::PathBuf;

use crate::graph::GraphError;
use crate::graph::onnx::OnnxError;
use crate::graph::sites::SiteError;

/// A backbone directory or an export was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackboneError {
    /// The ONNX file was refused.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The model is valid but cannot be rewritten.
    #[error("{}: {source}", path.display())]
    Graph {
        /// The model file.
        path: PathBuf,
        /// Why.
        source: GraphError,
    },
    /// The model does not look like a known backbone.
    #[error("{}: {source}; supported are transformer encoders and convolutional networks exported with torch.onnx", path.display())]
    Structure {
        /// The model file.
        path: PathBuf,
        /// What was not found.
        source: SiteError,
    },
    /// A file of the backbone cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not what it should be.
    #[error("{}: not a usable manifest: {reason}; run `edge-tune prepare` again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A path is a folder, a pipe or a device.
    #[error("{}: not a plain file; copy the backbone again", .0.display())]
    NotPlain(PathBuf),
    /// An option of `prepare` is out of range.
    #[error("max_length {max_length}: expected a number from 1 to {most}")]
    MaxLength {
        /// The length asked for.
        max_length: usize,
        /// The longest there can be.
        most: usize,
    },
    /// The tokenizer was refused.
    #[error(transparent)]
    Tokenizer(#[from] crate::data::DataError),
    /// A file has another length than the manifest says.
    #[error("{}: {have} bytes, the manifest says {want}; the backbone is damaged or incomplete, copy it again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes found.
        have: u64,
        /// Bytes recorded.
        want: u64,
    },
    /// A file has other bytes than the manifest says.
    #[error("{}: its SHA-256 is not the one in the manifest; the backbone is damaged, copy it again", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
    },
    /// The manifest names a value that the model lacks, or that is not what the manifest says.
    #[error("{}: site `{site}` of the manifest does not fit the model: {reason}; run `edge-tune prepare` again", dir.display())]
    Site {
        /// The backbone.
        dir: PathBuf,
        /// The value.
        site: String,
        /// What does not fit.
        reason: String,
    },
    /// The padding mask does not do what it should and cannot be repaired.
    #[error("{}: {reason}; export again with dynamo=True", path.display())]
    Mask {
        /// The model file.
        path: PathBuf,
        /// What was observed.
        reason: String,
    },
    /// The feature cannot be taken in the way that was asked for.
    #[error("{}: {reason}; choose another pooling", path.display())]
    Pooling {
        /// The model file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The prepared model does not compute what the export does.
    #[error("{}: the prepared model differs from the export: {reason}", path.display())]
    Differs {
        /// The model file.
        path: PathBuf,
        /// By how much.
        reason: String,
    },
    /// The engine could not run the model.
    #[error("{}: {source}", path.display())]
    Engine {
        /// The model file.
        path: PathBuf,
        /// What it said.
        source: crate::engine::EngineError,
    },
    /// Pictures or sounds would not fit the model.
    #[error("{}: {reason}", path.display())]
    Preprocess {
        /// The specification, front end or model.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The output directory holds something already.
    #[error("{} is not empty; choose another directory or remove it first", .0.display())]
    Occupied(PathBuf),
}

impl BackboneError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            BackboneError::Onnx(e) => e.code(),
            BackboneError::Graph { source, .. } => source.code(),
            BackboneError::Structure { .. } => "backbone.structure",
            BackboneError::Io { .. } => "backbone.io",
            BackboneError::Manifest { .. } => "backbone.manifest",
            BackboneError::NotPlain(_) => "backbone.not-a-file",
            BackboneError::MaxLength { .. } => "backbone.max-length",
            BackboneError::Tokenizer(e) => e.code(),
            BackboneError::Length { .. } => "backbone.length",
            BackboneError::Digest { .. } => "backbone.digest",
            BackboneError::Site { .. } => "backbone.site",
            BackboneError::Mask { .. } => "backbone.mask",
            BackboneError::Pooling { .. } => "backbone.pooling",
            BackboneError::Differs { .. } => "backbone.differs",
            BackboneError::Engine { source, .. } => source.code(),
            BackboneError::Preprocess { .. } => "backbone.preprocess",
            BackboneError::Occupied(_) => "backbone.occupied",
        }
    }
}
