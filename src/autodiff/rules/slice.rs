//! Parts of a tensor: their gradients are parts of the gradient, or the gradient among zeros.

use crate::autodiff::step::{Extent, Step};
use crate::graph::{GraphError, ValueId};

type Done = Result<(), GraphError>;

/// Each input gets its slice, with exact ends: an engine may refuse an end past a free dimension.
pub fn concat(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(0), s.graph.rank(dy))?;
    let last = (0..s.node.inputs.len()).rev().find(|&i| s.wants(i)).unwrap_or(0);
    let mut start = Extent::Fixed(0);
    for i in 0..=last {
        let size = s.extent(s.x(i)?, axis)?;
        let end = s.extent_add(start, size)?;
        if s.wants(i) {
            let dx = s.slice(dy, axis, start, end)?;
            s.give(i, dx);
        }
        start = end;
    }
    Ok(())
}

pub fn split(s: &mut Step<'_>) -> Done {
    let outputs = s.node.outputs.clone();
    let rank = s.graph.rank(s.x(0)?);
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(0), rank)?;
    let mut parts = Vec::with_capacity(outputs.len());
    for (i, y) in outputs.into_iter().enumerate() {
        let y = y.ok_or_else(|| s.node.unsupported("an output left out"))?;
        parts.push(match s.dy_of(i) {
            Some(dy) => dy,
            None => s.zeros_like(y)?,
        });
    }
    let dx = s.concat(&parts, axis)?;
    s.give(0, dx);
    Ok(())
}

pub fn slice(s: &mut Step<'_>) -> Done {
    let (x, y, mut g) = (s.x(0)?, s.y()?, s.dy()?);
    let rank = s.graph.rank(x);
    let starts = s.graph.shape(s.x(1)?).first().and_then(|d| d.constant()).unwrap_or(1);
    let axes: Vec<i64> = match s.optional(3) {
        None => (0..starts as i64).collect(),
        Some(_) => s.ints(3).ok_or_else(|| s.node.unsupported("axes that are not constant"))?,
    };
    let steps = match s.optional(4) {
        None => vec![1; axes.len()],
        Some(_) => s.ints(4).ok_or_else(|| s.node.unsupported("steps that are not constant"))?,
    };
    if steps.iter().any(|&n| n != 1) {
        return Err(s.node.unsupported("a step other than 1"));
    }
    for (k, &axis) in axes.iter().enumerate() {
        let axis = s.axis(axis, rank)?;
        if s.graph.shape(x)[axis] == s.graph.shape(y)[axis] {
            continue;
        }
        let (before, after) = surroundings(s, k, axis)?;
        g = s.pad(g, axis, before, after)?;
    }
    s.give(0, g);
    Ok(())
}

/// How many elements of `axis` the slice leaves out before and after, where `k` numbers its start.
fn surroundings(s: &mut Step<'_>, k: usize, axis: usize) -> Result<(Extent, Extent), GraphError> {
    let (x, y, starts) = (s.x(0)?, s.y()?, s.x(1)?);
    let (n, m) = (s.graph.shape(x)[axis], s.graph.shape(y)[axis]);
    let start = s.ints(1).and_then(|v| v.get(k).copied());
    let (whole, part) = (s.extent(x, axis)?, s.extent(y, axis)?);
    let left_out = s.extent_sub(whole, part)?;
    match start {
        Some(start @ 0..) => {
            let start = start as usize;
            if n.0.iter().any(|&n| n < start) {
                return Err(s.node.unsupported("a start past the end at some sizes"));
            }
            let before = Extent::Fixed(start);
            let rest: Vec<usize> =
                n.0.iter().zip(m.0).map(|(&n, m)| n.saturating_sub(start + m)).collect();
            let after = if rest.iter().all(|r| r == &rest[0]) {
                Extent::Fixed(rest[0])
            } else {
                s.extent_sub(left_out, before)?
            };
            Ok((before, after))
        }
        Some(start) => {
            // From the end: what comes after is fixed, if the slice has a fixed size.
            let from_end = start.unsigned_abs() as usize;
            if n.0.iter().any(|&n| n < from_end) {
                return Err(s.node.unsupported("a start before the beginning at some sizes"));
            }
            let before = s.extent_sub(whole, Extent::Fixed(from_end))?;
            let after = s.extent_sub(left_out, before)?;
            let rest: Vec<usize> = m.0.iter().map(|&m| from_end.saturating_sub(m)).collect();
            let fixed = rest.iter().all(|r| r == &rest[0]);
            Ok((before, if fixed { Extent::Fixed(rest[0]) } else { after }))
        }
        None => {
            let known = s.graph.value(starts).known.as_ref();
            let inside = known.is_some_and(|probes| {
                probes
                    .iter()
                    .all(|p| p.to_i64().and_then(|v| v.get(k).copied()).is_some_and(|v| v >= 0))
            });
            if !inside {
                return Err(s.node.unsupported("a start that is not known"));
            }
            let before = if s.graph.shape(starts) == [1.into()] {
                Extent::Value(starts)
            } else {
                Extent::Value(s.slice(starts, 0, Extent::Fixed(k), Extent::Fixed(k + 1))?)
            };
            let after = s.extent_sub(left_out, before)?;
            Ok((before, after))
        }
    }
}

/// Constant padding: the middle of the gradient.
pub fn pad(s: &mut Step<'_>) -> Done {
    if s.node.attrs.str("mode").unwrap_or("constant") != "constant" {
        return Err(s.node.unsupported("a mode other than constant"));
    }
    s.refuse(2, "a trained padding value")?;
    let (x, mut g) = (s.x(0)?, s.dy()?);
    let rank = s.graph.rank(x);
    let pads = s.ints(1).ok_or_else(|| s.node.unsupported("padding that is not constant"))?;
    let axes: Vec<i64> = match s.optional(3) {
        None => (0..rank as i64).collect(),
        Some(_) => s.ints(3).ok_or_else(|| s.node.unsupported("axes that are not constant"))?,
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|&p| p < 0) {
        return Err(s.node.unsupported("this padding"));
    }
    for (k, &axis) in axes.iter().enumerate() {
        let axis = s.axis(axis, rank)?;
        if pads[k] != 0 || pads[axes.len() + k] != 0 {
            let before = Extent::Fixed(pads[k] as usize);
            let size = s.extent(x, axis)?;
            let end = s.extent_add(before, size)?;
            g = s.slice(g, axis, before, end)?;
        }
    }
    s.give(0, g);
    Ok(())
}

/// One element of `axis` among zeros: `dy` has size 1 there.
pub(super) fn at_index(
    s: &mut Step<'_>,
    dy: ValueId,
    axis: usize,
    index: i64,
) -> Result<ValueId, GraphError> {
    let whole = s.extent(s.x(0)?, axis)?;
    let (before, after) = if index >= 0 {
        let before = Extent::Fixed(index as usize);
        (before, s.extent_sub(whole, Extent::Fixed(index as usize + 1))?)
    } else {
        let from_end = index.unsigned_abs() as usize;
        (s.extent_sub(whole, Extent::Fixed(from_end))?, Extent::Fixed(from_end - 1))
    };
    s.pad(dy, axis, before, after)
}
