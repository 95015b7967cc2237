//! Reading and writing ONNX files.

mod external;
mod lift;
mod quantized;
mod read;
mod tensors;
mod write;

use std::path::PathBuf;

pub use external::{ExternalData, ExternalError};
pub use read::{PICTURE, parse, read, read_export};
pub(super) use tensors::dtype;
pub(crate) use write::attribute;
#[cfg(feature = "ort")]
pub(crate) use write::dim_names;
pub use write::{FileModel, write};

use super::GraphError;

/// Files above this many bytes are refused: protobuf cannot hold more.
pub const MAX_MODEL_BYTES: u64 = 1 << 31;
/// More nodes than this are refused.
pub const MAX_NODES: usize = 100_000;
/// More dimensions than this are refused.
pub const MAX_RANK: usize = 16;
/// A value of more bytes than this, at the probe sizes, is refused.
pub const MAX_VALUE_BYTES: usize = 1 << 31;
/// The operator set that graphs are lifted to and written with.
pub const OPSET: i64 = 20;
/// The version of the file format that is written.
const IR: i64 = 9;
/// The first operator set with int4, and its format; of models that use it.
const OPSET_OF_INT4: i64 = 21;
const IR_OF_INT4: i64 = 10;
/// The first operator set with `RMSNormalization`; of models that use it.
const OPSET_OF_RMS: i64 = 23;

/// An ONNX file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The content is not what it should be.
    #[error("{}: {source}", path.display())]
    Graph {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GraphError,
    },
    /// Weights outside the file were refused.
    #[error(transparent)]
    External(#[from] ExternalError),
}

impl OnnxError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            OnnxError::Io { .. } => "onnx.io",
            OnnxError::Graph { source, .. } => source.code(),
            OnnxError::External(e) => e.code(),
        }
    }
}
