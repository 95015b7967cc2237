use std::any::Any;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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

/// Makes another session of a program, or says why it cannot.
type Build = Box<dyn Fn() -> Result<Session, String> + Send + Sync>;

/// A compiled graph: a session for each run that is under way. The crate lets one thread run a
/// session at a time.
pub(super) struct OrtProgram {
    names: Vec<String>,
    inputs: Vec<Input>,
    outputs: Vec<String>,
    idle: Mutex<Idle>,
    returned: Condvar,
    build: Option<Build>,
}

struct Idle {
    sessions: Vec<Session>,
    /// How many more may be built.
    more: usize,
}

impl OrtProgram {
    pub(super) fn new(inputs: Vec<Input>, outputs: Vec<String>, session: Session) -> OrtProgram {
        let names = inputs.iter().map(|i| i.name.clone()).collect();
        let idle = Mutex::new(Idle { sessions: vec![session], more: 0 });
        OrtProgram { names, inputs, outputs, idle, returned: Condvar::new(), build: None }
    }

    /// With up to `most` sessions, the others made when they are first needed.
    pub(super) fn with_sessions(
        self,
        most: usize,
        build: impl Fn() -> Result<Session, String> + Send + Sync + 'static,
    ) -> OrtProgram {
        self.lock().more = most.saturating_sub(1);
        OrtProgram { build: Some(Box::new(build)), ..self }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session that nobody uses.
    fn take(&self) -> Result<Session, String> {
        let mut idle = self.lock();
        loop {
            if let Some(session) = idle.sessions.pop() {
                return Ok(session);
            }
            if let Some(build) = self.build.as_ref().filter(|_| idle.more > 0) {
                idle.more -= 1;
                drop(idle);
                let built = build();
                if built.is_err() {
                    self.lock().more += 1;
                    self.returned.notify_one();
                }
                return built;
            }
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put_back(&self, session: Session) {
        self.lock().sessions.push(session);
        self.returned.notify_one();
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
        let mut session = self.take().map_err(failed)?;
        let result = session.run(fed).map_err(|e| failed(e.to_string())).and_then(|out| {
            let copy = |name: &String| {
                let missing = || failed(format!("there is no output `{name}`"));
                values::copy(out.get(name).ok_or_else(missing)?).map_err(failed)
            };
            self.outputs.iter().map(copy).collect()
        });
        self.put_back(session);
        result
    }
}
