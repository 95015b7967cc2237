use super::Context;
use super::kv_rows;
use super::token_rows::slice;
use crate::graph::{Attrs, GraphError};

/// Rows `[P, d]` at the input of one block that only other rows attend to: the block's own
/// normalisation, key and value layers turn them into keys and values. Equal to rows that run
/// through the block and are dropped behind it (VPT-deep, arXiv 2203.12119), without their queries
/// and their feed-forward part.
pub(super) fn insert_keys_and_values(
    context: &mut Context<'_>,
    layer: usize,
    rows: &str,
    count: usize,
) -> Result<(), GraphError> {
    let site = context.layer(layer)?;
    let rows = context.tensor(rows)?;
    let at = |context: &Context<'_>, name: &str| crate::backbone::site(context.graph, name);
    let (from, keys, values) =
        (at(context, &site.input)?, at(context, &site.keys)?, at(context, &site.values)?);
    let g = &mut *context.graph;
    let first = g.ints(&[0]);
    let rows = g.op("Unsqueeze", &[rows, first], Attrs::none())?;
    let made = [keys, values].map(|to| {
        let heads = g.replay(from, to, rows)?;
        g.op("Squeeze", &[heads, first], Attrs::none())
    });
    let [keys, values] = made;
    let (keys, values) = (keys?, values?);
    kv_rows::insert_rows(context, &site, keys, values, count)
}

/// The same rows in the sequence itself: behind the class row of the first block's input, and in
/// place of the rows of the block before in all others.
pub(super) fn insert_in_sequence(
    context: &mut Context<'_>,
    layer: usize,
    rows: &str,
    count: usize,
) -> Result<(), GraphError> {
    let site = context.layer(layer)?;
    let after = context.backbone.sites.tokens.after;
    let rows = context.tensor(rows)?;
    let skip = if layer == 0 { after } else { after + count };
    context.insert_after(&site.input, |g, v| {
        let rows = kv_rows::per_example(g, rows, v)?;
        let front = slice(g, v, 0, Some(after))?;
        let back = slice(g, v, skip, None)?;
        g.op("Concat", &[front, rows, back], Attrs::none().with("axis", 1i64))
    })?;
    context.graph.infer_all()
}
