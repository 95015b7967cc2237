//! One pass of the backbone for many tasks: what lies before their deltas is computed once.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::program::{Compiled, Slot};
use crate::autodiff::{frontier, split};
use crate::backbone::Backbone;
use crate::engine::{Bound, Engine};
use crate::graph::{Graph, GraphError, ValueId};

/// Values of a trunk by name, as the engine takes them.
pub(super) type Kept = HashMap<String, Arc<dyn Bound>>;

/// A prediction program in two parts.
pub(super) struct Split {
    /// The same for all tasks whose trunk computes the same.
    pub key: String,
    /// From data to the values that the rest reads.
    pub trunk: Box<Compiled>,
    /// From those, the delta and perhaps the data to the outputs, on one thread: those of several
    /// tasks run side by side.
    pub rest: Box<Compiled>,
}

impl Split {
    /// Cuts `graph` where its delta begins; `None` if that is at the start.
    pub fn of(
        graph: &Graph,
        backbone: &Backbone,
        engine: &Arc<dyn Engine>,
    ) -> Result<Option<Split>, GraphError> {
        let is_delta = |v: &ValueId| {
            matches!(Slot::of(&graph.value(*v).name, backbone), Slot::Delta | Slot::Tensor(_))
        };
        let delta: Vec<ValueId> = graph.inputs.iter().copied().filter(is_delta).collect();
        let cut = frontier(graph, &delta);
        if cut.values.is_empty() {
            return Ok(None);
        }
        let (trunk, rest) = split(graph, &cut)?;
        let compiled = |graph, engine| Box::new(Compiled::of(graph, backbone, engine));
        let key = key(&trunk, backbone.graph());
        Ok(Some(Split {
            key,
            trunk: compiled(trunk, engine.clone()),
            rest: compiled(rest, engine.narrowed(1)),
        }))
    }
}

/// A digest of what `graph`, which was made of `backbone`, computes. Names and numbers of values that
/// were added do not count; neither do other parts of the program that it was cut from.
fn key(graph: &Graph, backbone: &Graph) -> String {
    let own = backbone.values().count();
    let mut numbers: HashMap<ValueId, usize> = HashMap::new();
    let mut hash = Sha256::new();
    let mut value = |hash: &mut Sha256, v: ValueId| {
        let (id, next) = (v.0 as usize, numbers.len());
        if id < own && backbone.value(v).name == graph.value(v).name {
            hash.update(format!("backbone {id};"));
        } else if let Some(constant) = graph.constant(v) {
            hash.update(format!("{:?} {:?} ", constant.dtype(), constant.shape()));
            hash.update(constant.bytes());
        } else {
            hash.update(format!("new {};", numbers.entry(v).or_insert(next)));
        }
    };
    for node in &graph.nodes {
        hash.update(format!("{} {:?}(", node.op, node.attrs));
        for v in node.inputs.iter().chain(&node.outputs) {
            match v {
                Some(v) => value(&mut hash, *v),
                None => hash.update("none;"),
            }
        }
    }
    graph.outputs.iter().for_each(|&v| value(&mut hash, v));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
