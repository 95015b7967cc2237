use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::inputs::InputLimit;
use super::program::{Compiled, Slot, is_count};
use super::{Inputs, RuntimeError};
use crate::Error;
use crate::backbone::Backbone;
use crate::delta::{Delta, Metadata, TensorSpec};
use crate::engine::{Bound, Engine, Feed};
use crate::methods::{self, Plan, Settings};
use crate::tensor::Tensor;

/// A delta that is ready to predict: validated, with its program and with its tensors in the form
/// the engine passes without a copy.
pub struct Task {
    metadata: Metadata,
    limit: InputLimit,
    compiled: Arc<Compiled>,
    bound: Vec<Arc<dyn Bound>>,
    bytes: usize,
    resident: Arc<AtomicUsize>,
}

/// The plan that a delta's metadata describe.
///
/// # Errors
/// [`Error::Delta`] if the delta is of another backbone, [`RuntimeError::Method`] if its method or
/// settings are unknown here.
pub fn plan_of(backbone: &Backbone, delta: &Delta) -> Result<Plan, Error> {
    delta.check_backbone(backbone.digest())?;
    let metadata = delta.metadata();
    let plan = || {
        let method = methods::find(&metadata.method)?;
        let settings = Settings::from_json(method, &metadata.config)?;
        method.plan(backbone.manifest(), metadata.labels.len(), &settings)
    };
    let named = |source| RuntimeError::Method { delta: delta.name().to_owned(), source };
    Ok(plan().map_err(named)?)
}

/// What a delta of `plan` must hold.
pub fn expected_tensors(plan: &Plan) -> Vec<TensorSpec> {
    let spec = |t: &methods::TensorSpec| {
        let spec = TensorSpec::new(&t.name, &t.shape);
        let spec = if is_count(t) { spec.counts() } else { spec };
        let per_label = ["head.weight", "head.bias", "prototypes.mean", "prototypes.count"];
        match per_label.contains(&t.name.as_str()) {
            true => spec.per_label(),
            false => spec,
        }
    };
    plan.tensors.iter().map(spec).collect()
}

impl Task {
    pub(super) fn new(
        engine: &dyn Engine,
        backbone: &Backbone,
        compiled: Arc<Compiled>,
        plan: &Plan,
        delta: &Delta,
        resident: Arc<AtomicUsize>,
    ) -> Result<Task, Error> {
        let mut bound = Vec::new();
        for slot in compiled.slots() {
            if let Slot::Tensor(name) = slot {
                // Validation has made sure that it is there.
                let missing = || crate::graph::GraphError::Undefined(name.clone());
                let tensor = delta.tensor(name).ok_or_else(missing)?;
                bound.push(engine.bind(&tensor.to_f16())?);
            }
        }
        let bytes = bound.iter().map(|b| b.bytes()).sum();
        resident.fetch_add(bytes, Ordering::Relaxed);
        Ok(Task {
            metadata: delta.metadata().clone(),
            limit: InputLimit::new(backbone, plan),
            compiled,
            bound,
            bytes,
            resident,
        })
    }

    /// The delta's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Most tokens of an input.
    pub fn limit(&self) -> InputLimit {
        self.limit
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Scores before the softmax, f32 `[B, K]`, and pooled features, f32 `[B, d]`.
    ///
    /// # Errors
    /// [`Error::Engine`] if the inputs do not fit.
    pub fn run(&self, inputs: &Inputs) -> Result<(Tensor, Tensor), Error> {
        let batch = inputs.data.shape().first().copied().unwrap_or(0);
        let program = self.compiled.program(batch)?;
        let zeros;
        let types = match &inputs.types {
            Some(t) => t,
            None => {
                zeros = Tensor::zeros(inputs.data.dtype(), inputs.data.shape());
                &zeros
            }
        };
        let mut bound = self.bound.iter();
        let missing = |name: &str| crate::engine::EngineError::Input {
            name: name.to_owned(),
            reason: "it is missing".into(),
        };
        let feeds = self
            .compiled
            .slots()
            .iter()
            .map(|slot| {
                Ok(match slot {
                    Slot::Data => Feed::Tensor(&inputs.data),
                    Slot::Mask => {
                        Feed::Tensor(inputs.mask.as_ref().ok_or_else(|| missing("the mask"))?)
                    }
                    Slot::Types => Feed::Tensor(types),
                    Slot::Tensor(name) => Feed::Bound(bound.next().ok_or_else(|| missing(name))?),
                })
            })
            .collect::<Result<Vec<_>, crate::engine::EngineError>>()?;
        let mut out = program.run(&feeds)?.into_iter();
        let want = self.metadata.labels.len();
        match (out.next(), out.next()) {
            (Some(logits), Some(feature)) if logits.shape() == [batch, want] => {
                Ok((logits, feature))
            }
            (logits, _) => {
                let have = logits.map_or(0, |l| l.shape().last().copied().unwrap_or(0));
                Err(RuntimeError::Scores { have, want }.into())
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.resident.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({}, {}, {} bytes)", self.metadata.task, self.metadata.method, self.bytes)
    }
}
