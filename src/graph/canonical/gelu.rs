use std::collections::HashSet;

use crate::graph::{Attrs, Graph, GraphError, Index, Node, ValueId};

/// Replaces the exported chains of the Gaussian error linear unit
/// (`x * 0.5 * (1 + erf(x / sqrt 2))`, and its tanh approximation) by one `Gelu` node: the forward
/// stays one pass, and the gradient needs x alone.
pub(super) fn fuse(graph: &mut Graph) -> Result<(), GraphError> {
    let index = graph.index();
    let mut fused: Vec<(ValueId, Node)> = Vec::new();
    for node in &graph.nodes {
        let found = match node.op.as_str() {
            "Erf" => erf_input(graph, &index, node.input(0)?).map(|x| (x, "none")),
            "Tanh" => tanh_input(graph, &index, node.input(0)?).map(|x| (x, "tanh")),
            _ => None,
        };
        let Some((x, approximate)) = found else { continue };
        if let Some(end) = half_of_one_plus(graph, &index, node.output()?, x) {
            let name = format!("{}.gelu", graph.value(end).name);
            let attrs = Attrs::none().with("approximate", approximate);
            fused.push((
                end,
                Node { name, op: "Gelu".into(), inputs: vec![Some(x)], outputs: vec![], attrs },
            ));
        }
    }
    for (end, mut node) in fused {
        let mut value = graph.value(end).clone();
        value.name = graph.fresh_name(&node.name);
        let out = graph.add_value(value);
        node.outputs = vec![Some(out)];
        graph.nodes.push(node);
        graph.replace_uses(end, out, &HashSet::new());
    }
    graph.sort()
}

/// The operands of a binary node.
fn operands(node: &Node) -> Option<(ValueId, ValueId)> {
    Some((node.input(0).ok()?, node.input(1).ok()?))
}

/// For `op(v, c)` or, if it commutes, `op(c, v)` with a one-element constant: (v, c).
fn with_scalar(graph: &Graph, node: &Node) -> Option<(ValueId, f32)> {
    let (a, b) = operands(node)?;
    match (graph.scalar(a), graph.scalar(b)) {
        (None, Some(c)) => Some((a, c)),
        (Some(c), None) if matches!(node.op.as_str(), "Mul" | "Add") => Some((b, c)),
        _ => None,
    }
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-4
}

/// x, where v = x / sqrt 2.
fn erf_input(graph: &Graph, index: &Index, v: ValueId) -> Option<ValueId> {
    let node = &graph.nodes[index.producer(v)?];
    let (x, c) = with_scalar(graph, node)?;
    let ok = match node.op.as_str() {
        "Div" => near(c, std::f32::consts::SQRT_2),
        "Mul" => near(c, std::f32::consts::FRAC_1_SQRT_2),
        _ => false,
    };
    ok.then_some(x)
}

/// x, where v = sqrt(2/pi) (x + 0.044715 x^3).
fn tanh_input(graph: &Graph, index: &Index, v: ValueId) -> Option<ValueId> {
    let made =
        |v: ValueId, op: &str| index.producer(v).map(|p| &graph.nodes[p]).filter(|n| n.op == op);
    let (sum, c) = with_scalar(graph, made(v, "Mul")?)?;
    if !near(c, 0.797_884_6) {
        return None;
    }
    let (a, b) = operands(made(sum, "Add")?)?;
    [(a, b), (b, a)].into_iter().find_map(|(x, cubic)| {
        let (power, c) = with_scalar(graph, made(cubic, "Mul")?)?;
        (near(c, 0.044_715) && is_cube(graph, index, power, x)).then_some(x)
    })
}

/// True for `Pow(x, 3)` and for x * (x * x).
fn is_cube(graph: &Graph, index: &Index, v: ValueId, x: ValueId) -> bool {
    let Some(node) = index.producer(v).map(|p| &graph.nodes[p]) else { return false };
    let square = |v: ValueId| {
        let node = index.producer(v).map(|p| &graph.nodes[p]);
        node.is_some_and(|n| n.op == "Mul" && operands(n) == Some((x, x)))
    };
    match node.op.as_str() {
        "Pow" => with_scalar(graph, node) == Some((x, 3.0)),
        "Mul" => operands(node).is_some_and(|(a, b)| a == x && square(b) || b == x && square(a)),
        _ => false,
    }
}

/// The value that is 0.5 * x * (1 + v), with the three factors in any order.
fn half_of_one_plus(graph: &Graph, index: &Index, v: ValueId, x: ValueId) -> Option<ValueId> {
    let only = |v: ValueId| match index.consumers(v) {
        &[(n, _)] => Some(&graph.nodes[n]),
        _ => None,
    };
    let half_x = |h: ValueId| {
        index.producer(h).map(|p| &graph.nodes[p]).is_some_and(|n| {
            n.op == "Mul" && with_scalar(graph, n).is_some_and(|(y, c)| y == x && near(c, 0.5))
        })
    };
    let add = only(v)?;
    let (_, one) = with_scalar(graph, add)?;
    if add.op != "Add" || !near(one, 1.0) {
        return None;
    }
    let (mut at, mut saw_x, mut saw_half) = (add.output().ok()?, false, false);
    while !(saw_x && saw_half) {
        let mul = only(at)?;
        if mul.op != "Mul" {
            return None;
        }
        let (a, b) = operands(mul)?;
        let other = if a == at { b } else { a };
        if !saw_half && graph.scalar(other).is_some_and(|c| near(c, 0.5)) {
            saw_half = true;
        } else if !saw_x && other == x {
            saw_x = true;
        } else if !saw_x && !saw_half && half_x(other) {
            (saw_x, saw_half) = (true, true);
        } else {
            return None;
        }
        at = mul.output().ok()?;
    }
    Some(at)
}
