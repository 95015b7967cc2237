//! `ScatterND` and `ScatterElements`.

use super::call::{Call, Facts, like};
use super::gather::{index, known_indices, need_inside};
use super::movement::{for_each, offset, strides};
use super::values::{Numbers, is_small};
use crate::graph::GraphError;
use crate::tensor::Tensor;

/// Checks the attribute `reduction`; true if elements are replaced.
fn replaces(call: &Call) -> Result<bool, GraphError> {
    match call.str_or("reduction", "none")? {
        "none" => Ok(true),
        "add" | "mul" | "min" | "max" => Ok(false),
        other => Err(call.invalid(format!("reduction `{other}`"))),
    }
}

/// A copy of `x` with `updates[from..from + n]` at `to`, for each triple.
fn replaced(
    x: &Tensor,
    updates: &Tensor,
    moves: impl IntoIterator<Item = (usize, usize)>,
    n: usize,
) -> Facts {
    let size = x.dtype().size();
    let mut bytes = x.bytes().to_vec();
    for (to, from) in moves {
        let target = bytes.get_mut(to * size..(to + n) * size);
        let source = updates.bytes().get(from * size..(from + n) * size);
        if let (Some(target), Some(source)) = (target, source) {
            target.copy_from_slice(source);
        }
    }
    Ok(vec![Tensor::from_bytes(x.dtype(), x.shape(), &bytes)?.into()])
}

/// `ScatterND`.
pub(super) fn scatter_nd(call: &Call) -> Facts {
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    call.need_index(indices)?;
    call.need_same_type(&[x, updates])?;
    let replace = replaces(call)?;
    let bad = || {
        let (a, b) = (&indices.shape, &x.shape);
        call.invalid(format!("indices of shape {a:?} do not fit {b:?}"))
    };
    let (&width, outer) = indices.shape.split_last().ok_or_else(bad)?;
    let rest = x.shape.get(width..).ok_or_else(bad)?;
    call.need_shape("updates", updates, &[outer, rest].concat())?;
    let unknown = Ok(vec![like(x, x.shape.clone())]);
    let Some(Numbers::Ints(v)) = Numbers::of(indices) else { return unknown };
    let sizes = x.shape[..width].iter().cycle();
    let known: Vec<usize> =
        v.into_iter().zip(sizes).map(|(v, &n)| index(call, v, n)).collect::<Result<_, _>>()?;
    let small = is_small(&x.shape) && is_small(outer);
    let (Some(t), Some(u), true) = (&x.value, &updates.value, replace && small) else {
        return unknown;
    };
    let (rows, n) = (outer.iter().product::<usize>(), rest.iter().product::<usize>());
    let from = strides(&x.shape);
    let target = |row: usize| offset(&known[row * width..(row + 1) * width], &from);
    replaced(t, u, (0..rows).map(|row| (target(row), row * n)), n)
}

/// `ScatterElements`.
pub(super) fn scatter_elements(call: &Call) -> Facts {
    let (x, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    call.need_same_type(&[x, updates])?;
    let axis = call.axis_attr(0, x.shape.len())?;
    need_inside(call, x, indices, axis)?;
    call.need_shape("updates", updates, &indices.shape)?;
    let replace = replaces(call)?;
    let known = known_indices(call, indices, x.shape[axis])?;
    let (Some(t), Some(u), Some(known), true) =
        (&x.value, &updates.value, known, replace && is_small(&x.shape))
    else {
        return Ok(vec![like(x, x.shape.clone())]);
    };
    let from = strides(&x.shape);
    let mut moves = Vec::with_capacity(known.len());
    for_each(&indices.shape, |at| {
        let i = moves.len();
        moves.push((offset(at, &from) - at[axis] * from[axis] + known[i] * from[axis], i));
    });
    replaced(t, u, moves, 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;

    #[test]
    fn rows_are_replaced() {
        let x = grid(&[3, 2], &[0; 6]);
        let at = grid(&[2, 1], &[2, -3]);
        let to = grid(&[2, 2], &[1, 2, 3, 4]);
        let t = value("ScatterND", attrs(), &[x.clone(), at.clone(), to.clone()]);
        assert_eq!(t.to_i64().unwrap(), [3, 4, 0, 0, 1, 2]);
        let add = attrs().with("reduction", "add");
        let y = run("ScatterND", add, &[x.clone(), at.clone(), to.clone()]).unwrap().remove(0);
        assert!(y.value.is_none());
        let other = attrs().with("reduction", "average");
        assert!(refused("ScatterND", other, &[x.clone(), at.clone(), to.clone()]));
        assert!(refused("ScatterND", attrs(), &[x.clone(), at, ids(&[2])]));
        assert!(refused("ScatterND", attrs(), &[x.clone(), grid(&[2, 1], &[3, 0]), to.clone()]));
        assert!(refused("ScatterND", attrs(), &[x.clone(), ids(&[2, 3]), to.clone()]));
        assert!(refused("ScatterND", attrs(), &[x, int(0), to]));
    }

    #[test]
    fn elements_are_replaced() {
        let x = grid(&[2, 2], &[0; 4]);
        let axis = attrs().with("axis", 1);
        let inputs = [x.clone(), grid(&[2, 1], &[1, 0]), grid(&[2, 1], &[5, 6])];
        let t = value("ScatterElements", axis, &inputs);
        assert_eq!(t.to_i64().unwrap(), [0, 5, 6, 0]);
        assert!(refused("ScatterElements", attrs(), &[x.clone(), ids(&[1, 1]), ids(&[2, 1])]));
        assert!(refused("ScatterElements", attrs(), &[x, ints(&[0]), ints(&[0])]));
    }
}
