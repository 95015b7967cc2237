use std::any::Any;
use std::sync::{Mutex, PoisonError};

use ort::session::Session;

use super::{NAME, values};
use crate::engine::inputs::{self, Checked, Input, refused};
use crate::engine::{Bound, EngineError, Feed, Program};
use crate::tensor::Tensor;

/// A tensor that runs read where it is.
pub(super) struct OrtBound(pub(super) Tensor);

impl Bound for OrtBound {
    fn bytes(&self) -> usize {
        self.0.bytes().len()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A compiled session.
pub(super) struct OrtProgram {
    names: Vec<String>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
    /// The crate lets one thread run a session at a time.
    session: Mutex<Session>,
}

impl OrtProgram {
    pub(super) fn new(inputs: Vec<Input>, outputs: Vec<String>, session: Session) -> OrtProgram {
        let names = inputs.iter().map(|i| i.name.clone()).collect();
        OrtProgram { names, inputs, outputs, session: Mutex::new(session) }
    }
}

impl Program for OrtProgram {
    fn inputs(&self) -> &[String] {
        &self.names
    }

    fn run(&self, feeds: &[Feed<'_>]) -> Result<Vec<Tensor>, EngineError> {
        let checked =
            inputs::check(&self.inputs, feeds, |b: &OrtBound| (b.0.dtype(), b.0.shape()))?;
        let failed = |reason: String| EngineError::Run { engine: NAME, reason };
        let mut fed = Vec::with_capacity(feeds.len());
        for (name, feed) in self.names.iter().zip(checked) {
            let (Checked::Tensor(tensor) | Checked::Bound(OrtBound(tensor))) = feed;
            let value = values::view(tensor).map_err(|reason| refused(name, &reason))?;
            fed.push((name.as_str(), value));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let out = session.run(fed).map_err(|e| failed(e.to_string()))?;
        let copy = |name: &String| {
            let missing = || failed(format!("there is no output `{name}`"));
            values::copy(out.get(name).ok_or_else(missing)?).map_err(failed)
        };
        self.outputs.iter().map(copy).collect()
    }
}
