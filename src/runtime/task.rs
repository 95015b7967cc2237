use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use super::inputs::InputLimit;
use super::program::{Compiled, Slot, served};
use super::trunk::{Kept, Split};
use super::{Budget, Inputs, RuntimeError};
use crate::Error;
use crate::backbone::Backbone;
use crate::delta::{Delta, Metadata, TensorSpec};
use crate::engine::{Bound, Engine, EngineError, Feed};
use crate::graph::GraphError;
use crate::methods::{self, Plan, Purpose, Settings};
use crate::tensor::Tensor;

/// A delta that is ready to predict: validated, with its program and with its tensors in the form
/// the engine passes without a copy.
pub struct Task {
    metadata: Metadata,
    limit: InputLimit,
    compiled: Arc<Compiled>,
    /// Its tensors one after another.
    bound: Arc<dyn Bound>,
    reserved: Reserved,
}

/// Bytes taken from a model's budget; given back when dropped.
pub(super) struct Reserved {
    bytes: usize,
    /// Bytes, and tasks.
    resident: Arc<(AtomicUsize, AtomicUsize)>,
}

/// What there is too much of.
pub(super) enum Over {
    /// Bytes; so many are free.
    Bytes(usize),
    Tasks,
}

impl Reserved {
    /// Takes `bytes` for one more task.
    pub fn take(
        resident: &Arc<(AtomicUsize, AtomicUsize)>,
        bytes: usize,
        budget: &Budget,
    ) -> Result<Reserved, Over> {
        let add = |to: &AtomicUsize, n: usize, most: usize| {
            to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(n).filter(|&sum| sum <= most)
            })
        };
        add(&resident.1, 1, budget.max_resident).map_err(|_| Over::Tasks)?;
        let most = budget.max_resident_bytes;
        add(&resident.0, bytes, most).map_err(|taken| {
            resident.1.fetch_sub(1, Ordering::Relaxed);
            Over::Bytes(most.saturating_sub(taken))
        })?;
        Ok(Reserved { bytes, resident: resident.clone() })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.resident.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.resident.1.fetch_sub(1, Ordering::Relaxed);
    }
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
        let spec = match t.purpose {
            Purpose::Trained | Purpose::Fixed => spec,
            Purpose::Numbers | Purpose::Counts => spec.counts(),
        };
        if t.per_class() { spec.per_label() } else { spec }
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
        reserved: Reserved,
    ) -> Result<Task, Error> {
        let mut values: Vec<f16> = Vec::with_capacity(reserved.bytes / size_of::<f16>());
        for spec in served(plan) {
            // Validation has made sure that it is there.
            let missing = || crate::graph::GraphError::Undefined(spec.name.clone());
            let tensor = delta.tensor(&spec.name).ok_or_else(missing)?.to_f16();
            values.extend(tensor.as_slice::<f16>()?);
        }
        let bound = engine.bind(&Tensor::vector(&values))?;
        Ok(Task {
            metadata: delta.metadata().clone(),
            limit: InputLimit::new(backbone, plan),
            compiled,
            bound,
            reserved,
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
        self.reserved.bytes
    }

    /// Scores before the softmax, f32 `[B, K]`, and pooled features, f32 `[B, d]`.
    ///
    /// # Errors
    /// [`Error::Engine`] if the inputs do not fit.
    pub fn run(&self, inputs: &Inputs) -> Result<(Tensor, Tensor), Error> {
        self.answer(&self.compiled, inputs, &Kept::new())
    }

    /// Its program in two parts, if it has a trunk that others may have too.
    pub(super) fn split(&self, backbone: &Backbone) -> Result<Option<&Split>, GraphError> {
        self.compiled.split(backbone)
    }

    /// Runs the trunk of its program: what [`Task::run_rest`] goes on from.
    pub(super) fn run_trunk(
        &self,
        split: &Split,
        engine: &dyn Engine,
        inputs: &Inputs,
    ) -> Result<Kept, Error> {
        let values = self.outputs(&split.trunk, inputs, &Kept::new())?;
        let bound = split.trunk.outputs().into_iter().zip(&values);
        bound.map(|(name, v)| Ok((name, engine.bind(v)?))).collect()
    }

    /// As [`Task::run`], from what a trunk like its own gave.
    pub(super) fn run_rest(
        &self,
        split: &Split,
        inputs: &Inputs,
        kept: &Kept,
    ) -> Result<(Tensor, Tensor), Error> {
        self.answer(&split.rest, inputs, kept)
    }

    fn answer(
        &self,
        compiled: &Compiled,
        inputs: &Inputs,
        kept: &Kept,
    ) -> Result<(Tensor, Tensor), Error> {
        let mut out = self.outputs(compiled, inputs, kept)?.into_iter();
        let batch = batch(inputs);
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

    fn outputs(
        &self,
        compiled: &Compiled,
        inputs: &Inputs,
        kept: &Kept,
    ) -> Result<Vec<Tensor>, Error> {
        let program = compiled.program(batch(inputs))?;
        let slots = compiled.slots();
        let zeros = (inputs.types.is_none() && slots.contains(&Slot::Types))
            .then(|| Tensor::zeros(inputs.data.dtype(), inputs.data.shape()));
        let missing = |name: &str| EngineError::Input {
            name: name.to_owned(),
            reason: "it is missing".into(),
        };
        let feed = |slot: &Slot| {
            Ok(match slot {
                Slot::Data => Feed::Tensor(&inputs.data),
                Slot::Mask => {
                    Feed::Tensor(inputs.mask.as_ref().ok_or_else(|| missing("the mask"))?)
                }
                Slot::Types => {
                    let types = inputs.types.as_ref().or(zeros.as_ref());
                    Feed::Tensor(types.ok_or_else(|| missing("the segments"))?)
                }
                Slot::Delta => Feed::Bound(&self.bound),
                Slot::Tensor(name) => Feed::Bound(kept.get(name).ok_or_else(|| missing(name))?),
            })
        };
        let feeds = slots.iter().map(feed).collect::<Result<Vec<_>, EngineError>>()?;
        Ok(program.run(&feeds)?)
    }
}

/// Rows of `inputs`.
fn batch(inputs: &Inputs) -> usize {
    inputs.data.shape().first().copied().unwrap_or(0)
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Task({}, {}, {} bytes)", self.metadata.task, self.metadata.method, self.bytes())
    }
}
