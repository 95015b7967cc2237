use super::token_rows::{self, slice};
use super::{Context, Pull, head};
use crate::backbone::Pooling;
use crate::graph::{Attrs, GraphError};

/// Prompts `[M, P, d]`, of which every example gets the `top` whose keys `[M, q]` are nearest to its
/// query, the feature of the frozen backbone `[B, q]` (L2P, arXiv 2112.08654).
///
/// Behind it the hidden state, or what `feature` is made of, is that of a second pass with the chosen
/// rows in the sequence. The feature of the whole is the mean of these rows if `from_rows` is set.
pub(super) fn insert(
    context: &mut Context<'_>,
    (prompts, keys): (&str, &str),
    top: usize,
    feature: Pooling,
    from_rows: bool,
) -> Result<Pull, GraphError> {
    let query = head::pool(context, feature)?;
    let (prompts, keys) = (context.tensor(prompts)?, context.tensor(keys)?);
    let site = context.backbone.sites.tokens.clone();
    let sites = &context.backbone.sites;
    let end_name = match (&sites.pooled, feature) {
        (Some(pooled), Pooling::Output) if !from_rows => pooled.clone(),
        _ => sites.hidden.clone(),
    };
    let (embedded, end) = (context.site(&site.value)?, context.site(&end_name)?);
    let g = &mut *context.graph;

    let swap = Attrs::none().with("perm", [1i64, 0].as_slice());
    let directions = head::unit_rows(g, keys)?;
    let directions = g.op("Transpose", &[directions], swap)?;
    let unit = head::unit_rows(g, query)?;
    let cosines = g.op("MatMul", &[unit, directions], Attrs::none())?;
    let count = g.ints(&[top as i64]);
    let along = || Attrs::none().with("axis", 1i64);
    let best = g.op_n("TopK", &[Some(cosines), Some(count)], along(), 2)?;
    let missing = || GraphError::Undefined(end_name.clone());
    let chosen = best.get(1).copied().ok_or_else(missing)?;
    // Not the sorted values themselves: their gradient goes by the positions all the same.
    let nearness = g.op("GatherElements", &[cosines, chosen], along())?;
    let axis = g.ints(&[1]);
    let nearness = g.op("ReduceSum", &[nearness, axis], Attrs::none().with("keepdims", 0i64))?;

    let rows = g.op("Gather", &[prompts, chosen], Attrs::none().with("axis", 0i64))?;
    let fixed = |d: usize| g.shape(prompts).get(d).and_then(|d| d.constant()).ok_or_else(missing);
    let (length, width) = (top * fixed(1)?, fixed(2)?);
    let shape = g.ints(&[0, length as i64, width as i64]);
    let rows = g.op("Reshape", &[rows, shape], Attrs::none())?;
    let prompted = token_rows::concat_behind(g, embedded, site.after, rows)?;
    let second = g.replay(embedded, end, prompted)?;
    if from_rows {
        let rows = slice(g, second, site.after, Some(site.after + length))?;
        let flat = Attrs::none().with("keepdims", 0i64);
        context.feature = Some(g.op("ReduceMean", &[rows, axis], flat)?);
    }
    context.current.insert(end, second);
    Ok(Pull { query, nearness })
}
