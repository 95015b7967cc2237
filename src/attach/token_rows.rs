use std::collections::{HashMap, HashSet};

use super::{Context, kv_rows::per_example};
use crate::graph::sites::Modality;
use crate::graph::{Attrs, Dim, Graph, GraphError, ValueId};
use crate::tensor::{DType, Tensor};

/// Puts rows `[P, d]` into the sequence at the token site, behind the rows that stay in front.
///
/// Everything that is computed from the ids, the mask or the segments but does not lead to the
/// site must see sequences that are P longer: it reads extended copies of these inputs.
pub(super) fn insert(
    context: &mut Context<'_>,
    rows: &str,
    count: usize,
) -> Result<(), GraphError> {
    let site = context.backbone.sites.tokens.clone();
    let rows = context.tensor(rows)?;
    let v = context.site(&site.value)?;
    if context.backbone.sites.modality == Modality::Text {
        extend_inputs(context, v, count)?;
        context.front_rows += count;
    }
    context.insert_after(&site.value, |g, v| {
        let rows = per_example(g, rows, v)?;
        concat_behind(g, v, site.after, rows)
    })?;
    context.graph.infer_all()
}

/// `v [B, S, d]` with `rows [B, P, d]` behind its first `after` rows.
pub(super) fn concat_behind(
    g: &mut Graph,
    v: ValueId,
    after: usize,
    rows: ValueId,
) -> Result<ValueId, GraphError> {
    let axis = || Attrs::none().with("axis", 1i64);
    if after == 0 {
        return g.op("Concat", &[rows, v], axis());
    }
    let front = slice(g, v, 0, Some(after))?;
    let back = slice(g, v, after, None)?;
    g.op("Concat", &[front, rows, back], axis())
}

/// Rows `from..to` of `v [B, S, ..]`; to the end without `to`.
pub(super) fn slice(
    g: &mut Graph,
    v: ValueId,
    from: usize,
    to: Option<usize>,
) -> Result<ValueId, GraphError> {
    let start = g.ints(&[from as i64]);
    let end = match (to, g.shape(v)[1].constant()) {
        (Some(to), _) | (None, Some(to)) => g.ints(&[to as i64]),
        // Engines want the exact end of a free dimension.
        (None, None) => g.op("Shape", &[v], Attrs::none().with("start", 1i64).with("end", 2i64))?,
    };
    let axis = g.ints(&[1]);
    g.op("Slice", &[v, start, end, axis], Attrs::none())
}

fn extend_inputs(context: &mut Context<'_>, site: ValueId, count: usize) -> Result<(), GraphError> {
    let backbone = context.backbone;
    let g = &mut *context.graph;
    let leading: HashSet<usize> = g.ancestors(&[site]);
    let before = g.nodes.len();
    let mut extended: HashMap<ValueId, ValueId> = HashMap::new();
    for v in g.inputs.clone() {
        if g.shape(v) != [Dim::BATCH, Dim::SEQUENCE] {
            continue;
        }
        // The mask shows the rows; their ids count as tokens wherever padding is counted.
        let name = Some(g.value(v).name.as_str());
        let fill = if name == backbone.sites.mask.as_deref() {
            1
        } else if name == backbone.sites.types.as_deref() {
            0
        } else {
            backbone.pad_id + 1
        };
        let fill = constant_row(g, g.value(v).dtype, fill, count)?;
        let fill = per_example(g, fill, v)?;
        let longer = g.op("Concat", &[fill, v], Attrs::none().with("axis", 1i64))?;
        extended.insert(v, longer);
    }
    // A node that leads to the site and also elsewhere is needed in both lengths.
    for n in 0..before {
        let node = g.nodes[n].clone();
        if !leading.contains(&n) || node.output()? == site {
            continue;
        }
        let longer = |v: &Option<ValueId>| v.and_then(|v| extended.get(&v).copied());
        if node.inputs.iter().any(|v| longer(v).is_some()) {
            let inputs: Vec<_> = node.inputs.iter().map(|v| longer(v).or(*v)).collect();
            let outputs = g.op_n(&node.op, &inputs, node.attrs.clone(), node.outputs.len())?;
            for (old, new) in node.outputs.iter().zip(outputs) {
                extended.extend(old.map(|old| (old, new)));
            }
        }
    }
    for n in (0..before).filter(|n| !leading.contains(n)) {
        for i in g.nodes[n].inputs.iter_mut().flatten() {
            if *i != site
                && let Some(longer) = extended.get(i)
            {
                *i = *longer;
            }
        }
    }
    // Shapes agree again only once the rows are in place.
    g.sort()
}

fn constant_row(g: &mut Graph, dtype: DType, v: i64, count: usize) -> Result<ValueId, GraphError> {
    let t = match dtype {
        DType::F32 => Tensor::vector(&vec![v as f32; count]),
        DType::I32 => Tensor::vector(&vec![v as i32; count]),
        DType::Bool => Tensor::bools(&[count], &vec![v != 0; count])?,
        _ => Tensor::vector(&vec![v; count]),
    };
    Ok(g.add_constant("rows", t))
}
