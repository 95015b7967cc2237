//! The graphs of a training run: one step, a forward pass, and what is computed once per example.

use std::collections::HashSet;

use crate::Error;
use crate::attach::Attached;
use crate::autodiff::{Frontier, cross_entropy, frontier, gradients, reward, split};
use crate::backbone::Backbone;
use crate::graph::{Attrs, Dim, Graph, GraphError, ValueId};
use crate::methods::{Plan, TensorSpec};
use crate::runtime::{TensorForm, build};
use crate::tensor::{DType, Tensor};

/// Input with the class numbers, i64 `[B]`; -1 for rows that only fill up.
pub(super) const LABELS: &str = "labels";
/// Input with one over the batch size, f32 scalar.
pub(super) const LOSS_WEIGHT: &str = "loss_weight";

/// The graphs of a training run. All have the trained tensors as f32 inputs.
pub(super) struct Graphs {
    /// From data to the frontier; `None` if everything depends on the delta.
    pub prefix: Option<Graph>,
    /// Values of the frontier: name and dimensions.
    pub frontier: Vec<(String, Vec<Dim>)>,
    /// Frontier (or data) and labels to the loss and the gradients of `tensors`, in order.
    pub step: Graph,
    /// Frontier (or data) to the logits.
    pub forward: Graph,
    /// Data to the pooled feature.
    pub feature: Graph,
    /// Data to the queries that prompts are chosen by, if there are any.
    pub query: Option<Graph>,
    /// What is trained.
    pub tensors: Vec<TensorSpec>,
}

impl Graphs {
    /// Builds all graphs; with `cache` the frozen part is split off. Classes of `absent` do not
    /// compete in the loss.
    pub fn new(
        backbone: &Backbone,
        plan: &Plan,
        absent: &[usize],
        cache: bool,
    ) -> Result<Graphs, Error> {
        let tensors = plan.trained();
        let given = plan.given();
        let (graph, attached, _) = build(backbone, plan, &given, TensorForm::Float)?;
        let no_head = || GraphError::Undefined("head".into());
        let (logits, feature) =
            (attached.logits.ok_or_else(no_head)?, attached.feature.ok_or_else(no_head)?);
        let with_output = |v| {
            let mut g = graph.clone();
            g.outputs = vec![v];
            g.prune();
            let read: HashSet<_> = g.nodes.iter().flat_map(|n| &n.inputs).flatten().collect();
            let inputs = g.inputs.iter().copied().filter(|i| read.contains(i)).collect();
            g.inputs = inputs;
            g
        };
        let (forward, feature) = (with_output(logits), with_output(feature));
        let query = attached.pull.map(|pull| with_output(pull.query));
        if tensors.is_empty() {
            // Nothing is stepped: the tensors come in closed form.
            let step = forward.clone();
            let (prefix, frontier) = (None, vec![]);
            return Ok(Graphs { prefix, frontier, step, forward, feature, query, tensors });
        }
        let mut step = graph;
        let batch = step.shape(logits)[..1].to_vec();
        let labels = step.add_input(LABELS, DType::I64, &batch)?;
        let weight = step.add_input(LOSS_WEIGHT, DType::F32, &[])?;
        let loss = loss(&mut step, plan, &attached, absent, (labels, weight))?;
        let input = |t: &TensorSpec| crate::backbone::site(&step, &t.name);
        let given = given.iter().map(input).collect::<Result<Vec<_>, _>>()?;
        let wrt = &given[..tensors.len()];
        let grads = gradients(&mut step, loss, wrt)?;
        step.outputs = std::iter::once(loss).chain(grads).collect();
        step.prune();
        let cut = if cache { frontier(&step, &given) } else { Frontier::default() };
        // A value that is not one float row per example cannot be kept.
        let keeps = |v: &_| step.value(*v).dtype == DType::F32 && step.shape(*v)[0] == Dim::BATCH;
        let kept = cut.values.iter();
        let frontier: Vec<_> =
            kept.map(|&v| (step.value(v).name.clone(), step.shape(v).to_vec())).collect();
        if cut.values.is_empty() || !cut.values.iter().all(keeps) {
            let (prefix, frontier) = (None, vec![]);
            return Ok(Graphs { prefix, frontier, step, forward, feature, query, tensors });
        }
        let (prefix, step) = split(&step, &cut)?;
        let (_, forward) = split(&forward, &cut)?;
        let prefix = Some(prefix);
        Ok(Graphs { prefix, frontier, step, forward, feature, query, tensors })
    }

    /// All that may run.
    pub fn all(&self) -> impl Iterator<Item = &Graph> {
        let always = [&self.step, &self.forward, &self.feature];
        always.into_iter().chain(&self.prefix).chain(&self.query)
    }

    /// Bytes that the frontier takes for an example of `length` tokens.
    pub fn frontier_bytes(&self, length: usize) -> usize {
        let size = |dims: &[Dim]| dims.iter().map(|d| d.at(1, length)).product::<usize>();
        self.frontier.iter().map(|(_, dims)| 4 * size(dims)).sum()
    }
}

/// Adds the loss of a plan, a scalar: the cross-entropy of the classes that are not `absent`, and what
/// draws keys to queries. `labels` and `weight` are as for [`cross_entropy`].
///
/// # Errors
/// [`GraphError`] if there is no head, or the shapes are others.
pub fn loss(
    graph: &mut Graph,
    plan: &Plan,
    attached: &Attached,
    absent: &[usize],
    (labels, weight): (ValueId, ValueId),
) -> Result<ValueId, GraphError> {
    let logits = attached.logits.ok_or_else(|| GraphError::Undefined("head".into()))?;
    let competing = without(graph, logits, absent)?;
    let loss = cross_entropy(graph, competing, labels, weight)?;
    match attached.pull {
        Some(pull) => reward(graph, loss, pull.nearness, labels, (weight, plan.pull)),
        None => Ok(loss),
    }
}

/// `logits` with minus infinity for `absent` classes.
fn without(g: &mut Graph, logits: ValueId, absent: &[usize]) -> Result<ValueId, GraphError> {
    let classes = g.width(logits).unwrap_or(0);
    if absent.is_empty() {
        return Ok(logits);
    }
    let weight = |k: usize| if absent.contains(&k) { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..classes).map(weight).collect();
    let mask = g.add_constant("absent", Tensor::new(&[1, classes], &mask)?);
    g.op("Add", &[logits, mask], Attrs::none())
}
