use super::Context;
use crate::graph::sites::LayerSite;
use crate::graph::{Attrs, Graph, GraphError, ValueId};
use crate::tensor::Tensor;

/// Puts `count` rows in front of the keys and values of `layer`, and lets every query see them.
pub(super) fn insert(
    context: &mut Context<'_>,
    layer: usize,
    keys: &str,
    values: &str,
    count: usize,
) -> Result<(), GraphError> {
    let site = context.layer(layer)?;
    let (keys, values) = (context.tensor(keys)?, context.tensor(values)?);
    insert_rows(context, &site, keys, values, count)
}

/// As [`insert`], for rows that are values already.
pub(super) fn insert_rows(
    context: &mut Context<'_>,
    site: &LayerSite,
    keys: ValueId,
    values: ValueId,
    count: usize,
) -> Result<(), GraphError> {
    for (name, rows) in [(&site.keys, keys), (&site.values, values)] {
        context.insert_after(name, |g, v| {
            let rows = per_example(g, rows, v)?;
            g.op("Concat", &[rows, v], Attrs::none().with("axis", 1i64))
        })?;
    }
    for (name, input) in &site.masks {
        widen_mask(context, name, *input, count)?;
    }
    Ok(())
}

/// `rows [P, ..]` repeated for every example of `like [B, ..]`: `[B, P, ..]`.
pub(super) fn per_example(
    g: &mut Graph,
    rows: ValueId,
    like: ValueId,
) -> Result<ValueId, GraphError> {
    let batch = Attrs::none().with("start", 0i64).with("end", 1i64);
    let batch = g.op("Shape", &[like], batch)?;
    let fixed: Vec<i64> = g.shape(rows).iter().map(|d| d.constant().unwrap_or(0) as i64).collect();
    let fixed = g.ints(&fixed);
    let target = g.op("Concat", &[batch, fixed], Attrs::none().with("axis", 0i64))?;
    let first = g.ints(&[0]);
    let rows = g.op("Unsqueeze", &[rows, first], Attrs::none())?;
    g.op("Expand", &[rows, target], Attrs::none())
}

/// Adds `count` columns that mask nothing in front of an additive mask `[.., S]`.
fn widen_mask(
    context: &mut Context<'_>,
    node: &str,
    input: usize,
    count: usize,
) -> Result<(), GraphError> {
    let output = crate::backbone::site(context.graph, node)?;
    let g = &mut *context.graph;
    let missing = || GraphError::Undefined(node.to_owned());
    let n = g.index().producer(output).ok_or_else(missing)?;
    let mask = g.nodes[n].input(input)?;
    let rank = g.rank(mask);
    // A mask that is one wide broadcasts over any number of keys.
    if rank == 0 || g.shape(mask)[rank - 1].is_one() {
        return Ok(());
    }
    let wide = match context.wide_masks.get(&mask) {
        Some(&wide) => wide,
        None => {
            let leading = Attrs::none().with("start", 0i64).with("end", rank as i64 - 1);
            let leading = g.op("Shape", &[mask], leading)?;
            let columns = g.ints(&[count as i64]);
            let shape = g.op("Concat", &[leading, columns], Attrs::none().with("axis", 0i64))?;
            let zero = g.add_constant("zero", Tensor::new(&vec![1; rank], &[0f32])?);
            let zeros = g.op("Expand", &[zero, shape], Attrs::none())?;
            let axis = Attrs::none().with("axis", rank as i64 - 1);
            let wide = g.op("Concat", &[zeros, mask], axis)?;
            context.wide_masks.insert(mask, wide);
            wide
        }
    };
    g.nodes[n].inputs[input] = Some(wide);
    g.sort()
}

/// Reads learned positions `count` rows further on.
pub(super) fn shift_positions(context: &mut Context<'_>, count: usize) -> Result<(), GraphError> {
    let Some(site) = context.backbone.sites.positions.clone() else { return Ok(()) };
    let gathered = crate::backbone::site(context.graph, &site.value)?;
    let g = &mut *context.graph;
    let n = g.index().producer(gathered).ok_or(GraphError::Undefined(site.value))?;
    // Of Gather and of FrozenGather, the ids are the last input.
    let input = g.nodes[n].inputs.len().saturating_sub(1);
    let indices = g.nodes[n].input(input)?;
    let by = g.ints(&[count as i64]);
    let shifted = g.op("Add", &[indices, by], Attrs::none())?;
    g.nodes[n].inputs[input] = Some(shifted);
    g.sort()
}
