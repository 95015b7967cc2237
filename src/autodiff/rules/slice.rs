//! Parts of a tensor: their gradients are parts of the gradient, or the gradient among zeros.

use crate::autodiff::step::{Extent, Step};
use crate::graph::{GraphError, ValueId};
use crate::tensor::Tensor;

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
    let (x, mut g) = (s.x(0)?, s.dy()?);
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
    for (k, (&axis, &step)) in axes.iter().zip(&steps).enumerate() {
        let axis = s.axis(axis, rank)?;
        let step = usize::try_from(step).ok().filter(|&n| n > 0);
        let step = step.ok_or_else(|| s.node.unsupported("a negative step"))?;
        if step > 1 {
            g = spread(s, g, axis, step)?;
        }
        if s.graph.shape(x)[axis] != s.graph.shape(g)[axis] {
            let (before, after) = surroundings(s, g, k, axis)?;
            g = s.pad(g, axis, before, after)?;
        }
    }
    s.give(0, g);
    Ok(())
}

/// `step - 1` zeros between the elements of `g` along `axis`.
fn spread(s: &mut Step<'_>, g: ValueId, axis: usize, step: usize) -> Result<ValueId, GraphError> {
    let Extent::Fixed(m @ 1..) = s.extent(g, axis)? else {
        return Err(s.node.unsupported("a step over a size that varies"));
    };
    let rank = s.graph.rank(g);
    let mut merged: Vec<i64> = vec![0; rank];
    merged[axis] = (m * step) as i64;
    // Behind the merged axis nothing stays in its place, so 0 does not copy.
    for (d, size) in merged.iter_mut().enumerate().skip(axis + 1) {
        let Extent::Fixed(n @ 1..) = s.extent(g, d)? else {
            return Err(s.node.unsupported("a step before a size that varies"));
        };
        *size = n as i64;
    }
    let inner = s.graph.ints(&[axis as i64 + 1]);
    let g = s.op("Unsqueeze", &[g, inner])?;
    let g = s.pad(g, axis + 1, Extent::Fixed(0), Extent::Fixed(step - 1))?;
    let g = s.reshape(g, &merged)?;
    s.slice(g, axis, Extent::Fixed(0), Extent::Fixed((m - 1) * step + 1))
}

/// How many elements of `axis` the slice `part` leaves out before and after it, where `k` numbers
/// its start.
fn surroundings(
    s: &mut Step<'_>,
    part: ValueId,
    k: usize,
    axis: usize,
) -> Result<(Extent, Extent), GraphError> {
    let (x, starts) = (s.x(0)?, s.x(1)?);
    let (n, m) = (s.graph.shape(x)[axis], s.graph.shape(part)[axis]);
    let (whole, part) = (s.extent(x, axis)?, s.extent(part, axis)?);
    let before = match s.ints(1).and_then(|v| v.get(k).copied()) {
        Some(start) => {
            let distance = start.unsigned_abs() as usize;
            if n.0.iter().any(|&n| n < distance) {
                return Err(s.node.unsupported("a start outside the input at some sizes"));
            }
            if start >= 0 {
                Extent::Fixed(distance)
            } else {
                let before = s.extent_sub(whole, Extent::Fixed(distance))?;
                // What comes after is fixed if the slice has a fixed size.
                if let Extent::Fixed(m) = part {
                    return Ok((before, s.extent_sub(Extent::Fixed(distance), Extent::Fixed(m))?));
                }
                before
            }
        }
        None => start_value(s, starts, k)?,
    };
    // Also fixed where the sizes of both vary, such as all but the first element.
    let after = match before {
        Extent::Fixed(b) => {
            let rest = [0, 1, 2].map(|p| n.0[p].checked_sub(b + m.0[p]));
            rest[0].filter(|_| rest[1] == rest[0] && rest[2] == rest[0])
        }
        Extent::Value(_) => None,
    };
    if let Some(after) = after {
        return Ok((before, Extent::Fixed(after)));
    }
    let left_out = s.extent_sub(whole, part)?;
    Ok((before, s.extent_sub(left_out, before)?))
}

/// Element `k` of starts that depend on the input size, if it counts from the front.
fn start_value(s: &mut Step<'_>, starts: ValueId, k: usize) -> Result<Extent, GraphError> {
    let known = s.graph.value(starts).known.as_ref();
    let from_front = known.is_some_and(|probes| {
        let element = |p: &Tensor| p.to_i64().and_then(|v| v.get(k).copied());
        probes.iter().all(|p| element(p).is_some_and(|v| v >= 0))
    });
    if !from_front {
        return Err(s.node.unsupported("a start that is not known"));
    }
    if s.graph.shape(starts) == [1.into()] {
        return Ok(Extent::Value(starts));
    }
    Ok(Extent::Value(s.slice(starts, 0, Extent::Fixed(k), Extent::Fixed(k + 1))?))
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
