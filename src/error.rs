//! One error type over the rooms' own: what went wrong, where, and what to do next.

use crate::backbone::BackboneError;
use crate::data::DataError;
use crate::delta::DeltaError;
use crate::engine::EngineError;
#[cfg(feature = "pull")]
use crate::fetch::FetchError;
use crate::graph::GraphError;
use crate::methods::MethodError;
use crate::runtime::RuntimeError;
use crate::store::StoreError;
use crate::tensor::TensorError;
use crate::train::TrainError;

/// Any error of the library. Each room has its own enum with the details.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A backbone directory or an ONNX export was refused.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A graph could not be read, understood or rewritten.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An engine could not compile or run a program.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A delta file was refused.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// A method or its settings do not fit.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// Calibration could not start or go on.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Input data was refused.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store could not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something published could not be fetched, or was refused.
    #[cfg(feature = "pull")]
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A swap or a prediction was refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A tensor of another type or size was expected.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl Error {
    /// A stable short code, such as `delta.wrong-digest`: for scripts and for looking up help.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Backbone(e) => e.code(),
            Error::Graph(e) => e.code(),
            Error::Engine(e) => e.code(),
            Error::Delta(e) => e.code(),
            Error::Method(e) => e.code(),
            Error::Train(e) => e.code(),
            Error::Data(e) => e.code(),
            Error::Store(e) => e.code(),
            #[cfg(feature = "pull")]
            Error::Fetch(e) => e.code(),
            Error::Runtime(e) => e.code(),
            Error::Tensor(_) => "tensor",
        }
    }
}
