//! The graphs of a training run: one step, a forward pass, and what is computed once per example.

use crate::Error;
use crate::autodiff::{Frontier, cross_entropy, frontier, gradients, split};
use crate::backbone::Backbone;
use crate::graph::{Dim, Graph, GraphError};
use crate::methods::{Plan, TensorSpec, Training};
use crate::runtime::{TensorForm, build};
use crate::tensor::DType;

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
    /// What is trained.
    pub tensors: Vec<TensorSpec>,
}

impl Graphs {
    /// Builds all graphs; with `cache` the frozen part is split off.
    pub fn new(backbone: &Backbone, plan: &Plan, cache: bool) -> Result<Graphs, Error> {
        let tensors = match plan.training {
            // Class means have no gradients; the head reads them all the same.
            Training::ClassMeans => vec![],
            _ => plan.trained(),
        };
        if tensors.is_empty() {
            return Graphs::of_class_means(backbone, plan);
        }
        let (graph, attached, _) = build(backbone, plan, &tensors, TensorForm::Float)?;
        let no_head = || GraphError::Undefined("head".into());
        let (logits, feature) =
            (attached.logits.ok_or_else(no_head)?, attached.feature.ok_or_else(no_head)?);
        let with_output = |v| {
            let mut g = graph.clone();
            g.outputs = vec![v];
            g.prune();
            g
        };
        let (forward, feature) = (with_output(logits), with_output(feature));
        let mut step = graph;
        let batch = step.shape(logits)[..1].to_vec();
        let labels = step.add_input(LABELS, DType::I64, &batch)?;
        let weight = step.add_input(LOSS_WEIGHT, DType::F32, &[])?;
        let loss = cross_entropy(&mut step, logits, labels, weight)?;
        let wrt: Vec<_> = tensors
            .iter()
            .map(|t| crate::backbone::site(&step, &t.name))
            .collect::<Result<_, _>>()?;
        let grads = gradients(&mut step, loss, &wrt)?;
        step.outputs = std::iter::once(loss).chain(grads).collect();
        step.prune();
        let cut = if cache { frontier(&step, &wrt) } else { Frontier::default() };
        // A value that is not one float row per example cannot be kept.
        let keeps = |v: &_| step.value(*v).dtype == DType::F32 && step.shape(*v)[0] == Dim::BATCH;
        if cut.values.is_empty() || !cut.values.iter().all(keeps) {
            return Ok(Graphs { prefix: None, frontier: vec![], step, forward, feature, tensors });
        }
        let kept = cut.values.iter();
        let frontier =
            kept.map(|&v| (step.value(v).name.clone(), step.shape(v).to_vec())).collect();
        let (prefix, step) = split(&step, &cut)?;
        let (_, forward) = split(&forward, &cut)?;
        Ok(Graphs { prefix: Some(prefix), frontier, step, forward, feature, tensors })
    }

    fn of_class_means(backbone: &Backbone, plan: &Plan) -> Result<Graphs, Error> {
        let (mut graph, attached, _) = build(backbone, plan, &plan.tensors, TensorForm::Float)?;
        let feature = attached.feature.ok_or_else(|| GraphError::Undefined("head".into()))?;
        graph.outputs = vec![feature];
        // Only the data reach the feature.
        graph.prune();
        let named: Vec<_> = plan.tensors.iter().map(|t| t.name.as_str()).collect();
        let inputs: Vec<_> = graph.inputs.clone();
        graph.inputs = inputs
            .into_iter()
            .filter(|&v| !named.contains(&graph.value(v).name.as_str()))
            .collect();
        Ok(Graphs {
            prefix: None,
            frontier: vec![],
            step: graph.clone(),
            forward: graph.clone(),
            feature: graph,
            tensors: vec![],
        })
    }

    /// Bytes that the frontier takes for an example of `length` tokens.
    pub fn frontier_bytes(&self, length: usize) -> usize {
        let size = |dims: &[Dim]| dims.iter().map(|d| d.at(1, length)).product::<usize>();
        self.frontier.iter().map(|(_, dims)| 4 * size(dims)).sum()
    }
}
