//! Reductions: the gradient is spread over what was reduced.

use crate::autodiff::step::{Extent, Step};
use crate::graph::{GraphError, ValueId};

use super::arithmetic::cast_like;

type Done = Result<(), GraphError>;

/// The reduced axes. Without axes all are reduced, unless `noop_with_empty_axes` says none.
fn axes(s: &Step<'_>) -> Result<Vec<usize>, GraphError> {
    let rank = s.graph.rank(s.x(0)?);
    if s.node.op.starts_with("Global") {
        return Ok((2..rank).collect());
    }
    Ok(match s.axes(rank)? {
        Some(axes) if !axes.is_empty() => axes,
        _ if s.node.attrs.int("noop_with_empty_axes").unwrap_or(0) != 0 => Vec::new(),
        _ => (0..rank).collect(),
    })
}

/// `v`, an output or its gradient, with the reduced axes as 1.
fn keep(s: &mut Step<'_>, v: ValueId, axes: &[usize]) -> Result<ValueId, GraphError> {
    let kept = s.node.op.starts_with("Global") || s.node.attrs.int("keepdims").unwrap_or(1) != 0;
    if kept || axes.is_empty() {
        return Ok(v);
    }
    let mut axes: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
    axes.sort_unstable();
    let axes = s.graph.ints(&axes);
    s.op("Unsqueeze", &[v, axes])
}

pub fn sum(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let dy = s.dy()?;
    let dy = keep(s, dy, &axes)?;
    let dx = s.expand_like(dy, s.x(0)?)?;
    s.give(0, dx);
    Ok(())
}

pub fn mean(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let dy = s.dy()?;
    let dy = keep(s, dy, &axes)?;
    let share = share(s, dy, &axes)?;
    let dx = s.expand_like(share, s.x(0)?)?;
    s.give(0, dx);
    Ok(())
}

/// `v` divided by the number of elements along `axes` of input 0.
fn share(s: &mut Step<'_>, v: ValueId, axes: &[usize]) -> Result<ValueId, GraphError> {
    let x = s.x(0)?;
    let mut fixed = 1usize;
    let mut varying: Option<ValueId> = None;
    for &a in axes {
        match (s.extent(x, a)?, varying) {
            (Extent::Fixed(n), _) => fixed = fixed.saturating_mul(n),
            (Extent::Value(n), None) => varying = Some(n),
            (Extent::Value(n), Some(m)) => varying = Some(s.mul(m, n)?),
        }
    }
    let v = s.scale(v, 1.0 / fixed as f32)?;
    let Some(n) = varying else { return Ok(v) };
    let n = cast_like(s, n, v)?;
    s.div(v, n)
}

/// Shared equally among the elements that equal the result.
pub fn extremum(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let (x, y, dy) = (s.x(0)?, s.y()?, s.dy()?);
    let (y, dy) = (keep(s, y, &axes)?, keep(s, dy, &axes)?);
    let chosen = s.op("Equal", &[x, y])?;
    let chosen = cast_like(s, chosen, x)?;
    let axes: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
    let count = s.reduce_sum(chosen, &axes, true)?;
    let share = s.div(dy, count)?;
    let dx = s.mul(chosen, share)?;
    s.give(0, dx);
    Ok(())
}

/// x / |x|, and 0 for the zero vector.
pub fn l2(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let (x, y, dy) = (s.x(0)?, s.y()?, s.dy()?);
    let (y, dy) = (keep(s, y, &axes)?, keep(s, dy, &axes)?);
    let tiny = s.float(y, f32::MIN_POSITIVE)?;
    let norm = s.op("Max", &[y, tiny])?;
    let share = s.div(dy, norm)?;
    let dx = s.mul(x, share)?;
    s.give(0, dx);
    Ok(())
}

pub fn l1(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let (x, dy) = (s.x(0)?, s.dy()?);
    let dy = keep(s, dy, &axes)?;
    let sign = s.op("Sign", &[x])?;
    let dx = s.mul(sign, dy)?;
    s.give(0, dx);
    Ok(())
}

pub fn sum_square(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let (x, dy) = (s.x(0)?, s.dy()?);
    let dy = keep(s, dy, &axes)?;
    let double = s.scale(dy, 2.0)?;
    let dx = s.mul(x, double)?;
    s.give(0, dx);
    Ok(())
}

/// The softmax of the input.
pub fn log_sum_exp(s: &mut Step<'_>) -> Done {
    let axes = axes(s)?;
    let (x, y, dy) = (s.x(0)?, s.y()?, s.dy()?);
    let (y, dy) = (keep(s, y, &axes)?, keep(s, dy, &axes)?);
    let log = s.sub(x, y)?;
    let probability = s.op("Exp", &[log])?;
    let dx = s.mul(probability, dy)?;
    s.give(0, dx);
    Ok(())
}
