use std::collections::HashSet;

use crate::graph::{Graph, GraphError, dequantized_constant};

/// Turns weights that are stored as integers behind `DequantizeLinear` into floats: sites are found
/// on one form only, and `prepare` stores them as it stores all others.
pub(super) fn weights(graph: &mut Graph) -> Result<(), GraphError> {
    for n in 0..graph.nodes.len() {
        let Some(float) = dequantized_constant(graph, &graph.nodes[n])? else { continue };
        let output = graph.nodes[n].output()?;
        let name = format!("{}.folded", graph.value(output).name);
        let id = graph.add_constant(&name, float);
        graph.replace_uses(output, id, &HashSet::new());
    }
    graph.prune();
    Ok(())
}
