use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, ValueId};
use crate::tensor::DType;

/// Constant biases that are added right after a frozen product, and so can become part of it.
#[derive(Default)]
pub(in crate::engine) struct Biases {
    /// By the position of the product.
    pub(in crate::engine) of: HashMap<usize, Bias>,
    /// Positions of the additions that are no longer needed.
    pub(in crate::engine) added: HashSet<usize>,
}

/// A constant that is added, and the sum.
pub(in crate::engine) struct Bias {
    pub(in crate::engine) value: ValueId,
    pub(in crate::engine) output: ValueId,
}

impl Biases {
    pub(in crate::engine) fn find(graph: &Graph) -> Biases {
        let index = graph.index();
        let mut biases = Biases::default();
        for (n, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.op == "FrozenLinear") {
            let Ok(y) = node.output() else { continue };
            let &[(add, slot)] = index.consumers(y) else { continue };
            let sum = &graph.nodes[add];
            if sum.op != "Add" || graph.outputs.contains(&y) {
                continue;
            }
            let (Ok(value), Ok(output)) = (sum.input(1 - slot.min(1)), sum.output()) else {
                continue;
            };
            let vector = graph.constant(value).is_some_and(|b| {
                b.dtype() == DType::F32
                    && b.shape().last() == Some(&b.len())
                    && graph.width(y) == Some(b.len())
                    && b.shape().len() <= graph.rank(y)
            });
            if vector {
                biases.of.insert(n, Bias { value, output });
                biases.added.insert(add);
            }
        }
        biases
    }
}
