use crate::graph::{Attrs, Dim, Graph, GraphError};

/// Gives every `Reshape` and `Flatten` whose sizes can be told from the probes a constant target
/// of sizes, 0 (copy) and at most one -1. The nodes that computed the target then go.
pub(super) fn constant_targets(graph: &mut Graph) -> Result<(), GraphError> {
    for n in 0..graph.nodes.len() {
        let node = &graph.nodes[n];
        if !matches!(node.op.as_str(), "Reshape" | "Flatten") {
            continue;
        }
        let (input, output) = (node.input(0)?, node.output()?);
        if let Some(target) = target(graph.shape(input), graph.shape(output)) {
            let target = graph.ints(&target);
            let node = &mut graph.nodes[n];
            node.op = "Reshape".into();
            node.attrs = Attrs::none();
            node.inputs = vec![Some(input), Some(target)];
        }
    }
    Ok(())
}

/// A constant `Reshape` target that turns `from` into `to` at every size, if there is one.
pub(crate) fn target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    // A copied dimension must stand at the same place, and only a leading run is sure to be one.
    let copied = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let mut free = 0;
    let target = to
        .iter()
        .enumerate()
        .map(|(i, d)| match d.constant() {
            _ if i < copied => 0,
            Some(n) => n as i64,
            None => {
                free += 1;
                -1
            }
        })
        .collect();
    (free <= 1).then_some(target)
}

/// The dynamo exporter transposes keys by Reshape `[B*H, S, d]`, Transpose(0, 2, 1), Reshape back:
/// one Transpose(0, 1, 3, 2).
pub(super) fn transposed_keys(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    for n in 0..graph.nodes.len() {
        let node = &graph.nodes[n];
        if node.op != "Transpose" || node.attrs.ints("perm") != Some(&[0, 2, 1]) {
            continue;
        }
        let Some(before) = index.producer(node.input(0)?).map(|p| &graph.nodes[p]) else {
            continue;
        };
        let &[(after, _)] = index.consumers(node.output()?) else { continue };
        if before.op != "Reshape" || graph.nodes[after].op != "Reshape" {
            continue;
        }
        let source = before.input(0)?;
        let (from, to) = (graph.shape(source), graph.shape(graph.nodes[after].output()?));
        if let (&[b, h, s, d], [b2, h2, d2, s2]) = (from, to)
            && [b, h, d, s] == [*b2, *h2, *d2, *s2]
        {
            let output = graph.nodes[after].outputs.clone();
            let node = &mut graph.nodes[after];
            node.op = "Transpose".into();
            node.attrs = Attrs::none().with("perm", [0i64, 1, 3, 2].as_slice());
            node.inputs = vec![Some(source)];
            node.outputs = output;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let (b, s) = (Dim::BATCH, Dim::SEQUENCE);
        let f = Dim::fixed;
        assert_eq!(target(&[b, s, f(8)], &[b, s, f(2), f(4)]), Some(vec![0, 0, 2, 4]));
        let bs = Dim(std::array::from_fn(|p| b.0[p] * s.0[p]));
        assert_eq!(target(&[b, s, f(8)], &[bs, f(8)]), Some(vec![-1, 8]));
        assert_eq!(target(&[bs, f(8)], &[b, s, f(8)]), None);
        // Fixed sizes are copied too: prompts may add rows to a picture's sequence.
        assert_eq!(target(&[b, f(9), f(8)], &[b, f(9), f(2), f(4)]), Some(vec![0, 0, 2, 4]));
        assert_eq!(target(&[b, f(3), f(4)], &[b, f(12)]), Some(vec![0, 12]));
    }
}
