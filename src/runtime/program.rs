use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::attach::{Attached, attach};
use crate::backbone::Backbone;
use crate::engine::{Engine, Program};
use crate::graph::{Attrs, Dim, Graph, GraphError, ValueId};
use crate::methods::{Plan, TensorSpec};
use crate::tensor::DType;

/// The form in which a delta's tensors enter a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorForm {
    /// As they lie in the file: resident tasks cost no more than their bytes.
    Half,
    /// As they are trained.
    Float,
}

impl TensorForm {
    fn dtype(self) -> DType {
        match self {
            TensorForm::Half => DType::F16,
            TensorForm::Float => DType::F32,
        }
    }
}

/// The backbone's graph with `plan` attached, its tensors as inputs after the data inputs.
/// The values hold the tensors in f32, in the order of `tensors`.
///
/// # Errors
/// [`GraphError`] if the plan does not fit the graph.
pub fn build(
    backbone: &Backbone,
    plan: &Plan,
    tensors: &[TensorSpec],
    form: TensorForm,
) -> Result<(Graph, Attached, HashMap<String, ValueId>), GraphError> {
    let mut graph = backbone.graph().clone();
    let mut values = HashMap::new();
    for spec in tensors {
        let shape: Vec<Dim> = spec.shape.iter().map(|&d| Dim::fixed(d)).collect();
        let input = graph.add_input(&spec.name, form.dtype(), &shape)?;
        let value = match form {
            TensorForm::Half => graph.op("Cast", &[input], Attrs::none().with("to", 1i64))?,
            TensorForm::Float => input,
        };
        values.insert(spec.name.clone(), value);
    }
    let mut served = values.clone();
    if let crate::methods::Training::Through(r) = &plan.training
        && plan.tensors.iter().any(|t| !values.contains_key(&t.name))
    {
        served.extend(r.expand(&mut graph, &values)?);
    }
    let attached = attach(&mut graph, backbone.manifest(), &plan.attachments, &served)?;
    Ok((graph, attached, served))
}

/// What an input of a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Token ids or pixels.
    Data,
    /// The padding mask.
    Mask,
    /// Segment ids.
    Types,
    /// A tensor of the delta.
    Tensor(String),
}

impl Slot {
    /// What the input of that name is on `backbone`.
    pub fn of(name: &str, backbone: &Backbone) -> Slot {
        let sites = backbone.sites();
        if name == sites.input {
            Slot::Data
        } else if Some(name) == sites.mask.as_deref() {
            Slot::Mask
        } else if Some(name) == sites.types.as_deref() {
            Slot::Types
        } else {
            Slot::Tensor(name.to_owned())
        }
    }
}

/// Prediction programs of one signature, one for each batch size that was asked for.
pub struct Compiled {
    graph: Graph,
    slots: Vec<Slot>,
    engine: Arc<dyn Engine>,
    by_batch: Mutex<HashMap<usize, Arc<dyn Program>>>,
}

impl Compiled {
    /// Builds the graph of `plan` for prediction: its outputs are the logits and the feature.
    ///
    /// # Errors
    /// [`GraphError`] if the plan does not fit the graph.
    pub fn new(
        backbone: &Backbone,
        engine: Arc<dyn Engine>,
        plan: &Plan,
    ) -> Result<Compiled, GraphError> {
        let (mut graph, attached, _) = build(backbone, plan, &served(plan), TensorForm::Half)?;
        graph.outputs = attached.logits.into_iter().chain(attached.feature).collect();
        graph.prune();
        let slots =
            graph.inputs.iter().map(|&v| Slot::of(&graph.value(v).name, backbone)).collect();
        Ok(Compiled { graph, slots, engine, by_batch: Mutex::default() })
    }

    /// What each input is, in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The program for `batch` inputs at once; compiled the first time.
    ///
    /// # Errors
    /// [`Error::Engine`] if the engine refuses the graph.
    pub fn program(&self, batch: usize) -> Result<Arc<dyn Program>, Error> {
        // A panic while compiling leaves the map as it was: the lock can be used on.
        let mut programs = self.by_batch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = programs.get(&batch) {
            return Ok(p.clone());
        }
        let program = self.engine.compile(&self.graph, &[(Dim::BATCH, batch)])?;
        programs.insert(batch, program.clone());
        Ok(program)
    }
}

/// The tensors of `plan` that prediction reads. Counts are only for adding to the means later.
pub(super) fn served(plan: &Plan) -> Vec<TensorSpec> {
    plan.tensors.iter().filter(|t| !is_count(t)).cloned().collect()
}

pub(super) fn is_count(spec: &TensorSpec) -> bool {
    spec.name == "prototypes.count"
}

/// Two plans with the same signature share programs.
pub(super) fn signature(plan: &Plan) -> String {
    let shapes: Vec<_> = plan.tensors.iter().map(|t| (&t.name, &t.shape)).collect();
    format!("{:?} {shapes:?}", plan.attachments)
}
