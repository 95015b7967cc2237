use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::trunk::Split;
use crate::Error;
use crate::attach::{Attached, attach};
use crate::backbone::Backbone;
use crate::engine::{Engine, Program};
use crate::graph::{Attrs, Dim, Graph, GraphError, ValueId, fuse};
use crate::methods::{Plan, TensorSpec};
use crate::tensor::DType;

/// The form in which a delta's tensors enter a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorForm {
    /// All in one f16 vector, in order: a resident task is its bytes and little else.
    Half,
    /// Each an input, as they are trained.
    Float,
}

/// Input with all tensors of a delta, f16 `[N]`.
const DELTA: &str = "edge_tune.delta";

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
    let values = match form {
        TensorForm::Half => unpacked(&mut graph, tensors)?,
        TensorForm::Float => {
            let input = |t: &TensorSpec| {
                let shape: Vec<Dim> = t.shape.iter().map(|&d| Dim::fixed(d)).collect();
                Ok((t.name.clone(), graph.add_input(&t.name, DType::F32, &shape)?))
            };
            tensors.iter().map(input).collect::<Result<HashMap<_, _>, GraphError>>()?
        }
    };
    let mut served = values.clone();
    if let crate::methods::Training::Through(r) = &plan.training
        && plan.tensors.iter().any(|t| !values.contains_key(&t.name))
    {
        served.extend(r.expand(&mut graph, &values)?);
    }
    let attached = attach(&mut graph, backbone.manifest(), &plan.attachments, &served)?;
    fuse::attention(&mut graph)?;
    Ok((graph, attached, served))
}

/// Adds the input with the whole delta and cuts it into `tensors`.
fn unpacked(
    graph: &mut Graph,
    tensors: &[TensorSpec],
) -> Result<HashMap<String, ValueId>, GraphError> {
    let all = tensors.iter().map(TensorSpec::len).sum();
    let input = graph.add_input(DELTA, DType::F16, &[Dim::fixed(all)])?;
    let input = graph.op("Cast", &[input], Attrs::none().with("to", 1i64))?;
    let axis = graph.ints(&[0]);
    let mut values = HashMap::new();
    let mut start = 0;
    for t in tensors {
        let end = start + t.len();
        let (from, to) = (graph.ints(&[start as i64]), graph.ints(&[end as i64]));
        let part = graph.op("Slice", &[input, from, to, axis], Attrs::none())?;
        let shape: Vec<i64> = t.shape.iter().map(|&d| d as i64).collect();
        let shape = graph.ints(&shape);
        values.insert(t.name.clone(), graph.op("Reshape", &[part, shape], Attrs::none())?);
        start = end;
    }
    Ok(values)
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
    /// All tensors of the delta.
    Delta,
    /// A tensor of the delta, or something else that is named.
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
        } else if name == DELTA {
            Slot::Delta
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
    split: OnceLock<Option<Split>>,
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
        Ok(Compiled::of(graph, backbone, engine))
    }

    /// Programs of `graph`.
    pub(super) fn of(graph: Graph, backbone: &Backbone, engine: Arc<dyn Engine>) -> Compiled {
        let slots =
            graph.inputs.iter().map(|&v| Slot::of(&graph.value(v).name, backbone)).collect();
        Compiled { graph, slots, engine, by_batch: Mutex::default(), split: OnceLock::new() }
    }

    /// The same in two parts, cut where the delta begins; `None` if that is at the start.
    pub(super) fn split(&self, backbone: &Backbone) -> Result<Option<&Split>, GraphError> {
        if let Some(split) = self.split.get() {
            return Ok(split.as_ref());
        }
        let split = Split::of(&self.graph, backbone, &self.engine)?;
        Ok(self.split.get_or_init(|| split).as_ref())
    }

    /// Names of the outputs.
    pub(super) fn outputs(&self) -> Vec<String> {
        self.graph.outputs.iter().map(|&v| self.graph.value(v).name.clone()).collect()
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

/// The tensors of `plan` that prediction reads, in their order.
pub(super) fn served(plan: &Plan) -> Vec<TensorSpec> {
    plan.served().cloned().collect()
}

/// Two plans with the same signature share programs.
pub(super) fn signature(plan: &Plan) -> String {
    let shapes: Vec<_> = plan.tensors.iter().map(|t| (&t.name, &t.shape)).collect();
    format!("{:?} {shapes:?}", plan.attachments)
}
