//! Lookups: gradients are added where the elements came from.

use crate::autodiff::step::{Extent, Step};
use crate::graph::{Attrs, GraphError, ValueId};
use crate::tensor::Tensor;

use super::slice::at_index;

type Done = Result<(), GraphError>;

pub fn gather(s: &mut Step<'_>) -> Done {
    let (x, ids, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let rank = s.graph.rank(x);
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(0), rank)?;
    if let Some(&[index]) = s.ints(1).as_deref() {
        // One row, such as the class token: no scatter is needed.
        let row = match s.graph.rank(ids) {
            0 => {
                let axes = s.graph.ints(&[axis as i64]);
                s.op("Unsqueeze", &[dy, axes])?
            }
            1 => dy,
            _ => return Err(s.node.unsupported("one index of rank 2 or more")),
        };
        let dx = at_index(s, row, axis, index)?;
        s.give(0, dx);
        return Ok(());
    }
    let ids = non_negative(s, ids, axis)?;
    let ids_rank = s.graph.rank(ids);
    // The gathered dimensions first: [ids.., x without axis].
    let mut to_front: Vec<i64> = (axis as i64..(axis + ids_rank) as i64).collect();
    to_front.extend(0..axis as i64);
    to_front.extend((axis + ids_rank) as i64..(rank - 1 + ids_rank) as i64);
    let updates = s.transpose(dy, &to_front)?;
    let mut x_front = vec![axis as i64];
    x_front.extend((0..rank as i64).filter(|&d| d != axis as i64));
    let zeros = s.zeros_like(x)?;
    let zeros = s.transpose(zeros, &x_front)?;
    let axes = s.graph.ints(&[-1]);
    let positions = s.op("Unsqueeze", &[ids, axes])?;
    let sum = scatter(s, "ScatterND", &[zeros, positions, updates], None)?;
    let mut back: Vec<i64> = (1..=axis as i64).collect();
    back.push(0);
    back.extend(axis as i64 + 1..rank as i64);
    let dx = s.transpose(sum, &back)?;
    s.give(0, dx);
    Ok(())
}

pub fn gather_nd(s: &mut Step<'_>) -> Done {
    let (x, ids, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let ids = match s.node.attrs.int("batch_dims").unwrap_or(0) {
        0 => ids,
        1 => with_batch_position(s, ids)?,
        _ => return Err(s.node.unsupported("more than one batch dimension")),
    };
    let zeros = s.zeros_like(x)?;
    let dx = scatter(s, "ScatterND", &[zeros, ids, dy], None)?;
    s.give(0, dx);
    Ok(())
}

/// Index tuples `[B, .., n]` into one batch entry each as tuples `[B, .., n + 1]` into the whole.
fn with_batch_position(s: &mut Step<'_>, ids: ValueId) -> Result<ValueId, GraphError> {
    let rank = s.graph.rank(ids);
    let positions = match s.extent(ids, 0)? {
        Extent::Fixed(n) => s.graph.ints(&(0..n as i64).collect::<Vec<_>>()),
        Extent::Value(n) => {
            let (zero, one) = (Tensor::scalar(0i64), Tensor::scalar(1i64));
            let (zero, one) = (s.graph.add_constant("i", zero), s.graph.add_constant("i", one));
            let axis = s.graph.ints(&[0]);
            let n = s.op("Squeeze", &[n, axis])?;
            s.op("Range", &[zero, n, one])?
        }
    };
    let mut column = vec![1; rank];
    column[0] = -1;
    let column = s.reshape(positions, &column)?;
    // [B, .., 1], by broadcasting against a column of zeros.
    let last = s.slice(ids, rank - 1, Extent::Fixed(0), Extent::Fixed(1))?;
    let zeros = s.sub(last, last)?;
    let column = s.add(zeros, column)?;
    s.concat(&[column, ids], rank - 1)
}

pub fn gather_elements(s: &mut Step<'_>) -> Done {
    let (x, ids, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let axis = s.axis(s.node.attrs.int("axis").unwrap_or(0), s.graph.rank(x))?;
    let ids = non_negative(s, ids, axis)?;
    let zeros = s.zeros_like(x)?;
    let dx = scatter(s, "ScatterElements", &[zeros, ids, dy], Some(axis as i64))?;
    s.give(0, dx);
    Ok(())
}

fn scatter(
    s: &mut Step<'_>,
    op: &str,
    inputs: &[ValueId],
    axis: Option<i64>,
) -> Result<ValueId, GraphError> {
    let mut attrs = Attrs::none().with("reduction", "add");
    if let Some(axis) = axis {
        attrs = attrs.with("axis", axis);
    }
    s.op_with(op, inputs, attrs)
}

/// Indices counted from the front: not every engine scatters to negative ones.
fn non_negative(s: &mut Step<'_>, ids: ValueId, axis: usize) -> Result<ValueId, GraphError> {
    if s.ints(1).is_some_and(|v| v.iter().all(|&i| i >= 0)) {
        return Ok(ids);
    }
    let size = match s.extent(s.x(0)?, axis)? {
        Extent::Fixed(n) => s.graph.ints(&[n as i64]),
        Extent::Value(n) => n,
    };
    let zero = s.graph.ints(&[0]);
    let negative = s.op("Less", &[ids, zero])?;
    let wrapped = s.add(ids, size)?;
    s.op("Where", &[negative, wrapped, ids])
}
