//! `Gather`, `GatherElements`, `GatherND` and our `FrozenGather`.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::movement::{moved, offset, strides};
use super::values::Numbers;
use crate::graph::GraphError;
use crate::tensor::DType;

/// The known elements of `indices`, counted from the start of an axis of `size`.
pub(super) fn known_indices(
    call: &Call,
    indices: &Concrete,
    size: usize,
) -> Result<Option<Vec<usize>>, GraphError> {
    call.need_index(indices)?;
    let Some(Numbers::Ints(v)) = Numbers::of(indices) else { return Ok(None) };
    v.into_iter().map(|v| index(call, v, size)).collect::<Result<_, _>>().map(Some)
}

/// Index `v`, counted from the end if negative.
pub(super) fn index(call: &Call, v: i64, size: usize) -> Result<usize, GraphError> {
    let from_start = if v < 0 { v.saturating_add(size as i64) } else { v };
    usize::try_from(from_start)
        .ok()
        .filter(|&i| i < size)
        .ok_or_else(|| call.invalid(format!("index {v} is out of range for size {size}")))
}

/// `Gather`.
pub(super) fn gather(call: &Call) -> Facts {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = call.axis_attr(0, x.shape.len())?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    let Some(known) = known_indices(call, indices, x.shape[axis])? else {
        return Ok(vec![like(x, shape)]);
    };
    let (from, by) = (strides(&x.shape), strides(&indices.shape));
    let rank = indices.shape.len();
    Ok(vec![moved(x, shape, |at| {
        let (head, rest) = at.split_at_checked(axis)?;
        let (middle, tail) = rest.split_at_checked(rank)?;
        let row = known.get(offset(middle, &by))?;
        Some(offset(head, &from) + row * from[axis] + offset(tail, &from[axis + 1..]))
    })?])
}

/// `GatherElements`.
pub(super) fn gather_elements(call: &Call) -> Facts {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let axis = call.axis_attr(0, x.shape.len())?;
    need_inside(call, x, indices, axis)?;
    let shape = indices.shape.clone();
    let Some(known) = known_indices(call, indices, x.shape[axis])? else {
        return Ok(vec![like(x, shape)]);
    };
    let (from, by) = (strides(&x.shape), strides(&shape));
    Ok(vec![moved(x, shape, |at| {
        let row = known.get(offset(at, &by))?;
        Some(offset(at, &from) - at[axis] * from[axis] + row * from[axis])
    })?])
}

/// Indices of the rank of `x`, at most as large beside `axis`.
pub(super) fn need_inside(
    call: &Call,
    x: &Concrete,
    indices: &Concrete,
    axis: usize,
) -> Result<(), GraphError> {
    let (a, b) = (&x.shape, &indices.shape);
    let fits =
        a.len() == b.len() && a.iter().zip(b).enumerate().all(|(d, (a, b))| d == axis || b <= a);
    if fits {
        return Ok(());
    }
    Err(call.invalid(format!("indices of shape {b:?} do not fit {a:?}")))
}

/// `GatherND`: the last axis of the indices is a coordinate, after `batch_dims` shared axes.
pub(super) fn gather_nd(call: &Call) -> Facts {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    call.need_index(indices)?;
    let batch = call.size(call.int_or("batch_dims", 0)?, "batch_dims")?;
    let bad = || {
        let (a, b) = (&x.shape, &indices.shape);
        call.invalid(format!("indices {b:?} do not fit {a:?} with batch_dims {batch}"))
    };
    let (&width, outer) = indices.shape.split_last().ok_or_else(bad)?;
    let shared = x.shape.get(..batch).is_some_and(|head| outer.get(..batch) == Some(head));
    let end = batch.checked_add(width).filter(|&e| shared && width > 0 && e <= x.shape.len());
    let end = end.ok_or_else(bad)?;
    let shape = [outer, &x.shape[end..]].concat();
    let Some(Numbers::Ints(v)) = Numbers::of(indices) else {
        return Ok(vec![like(x, shape)]);
    };
    let sizes = x.shape[batch..end].iter().cycle();
    let known: Vec<usize> =
        v.into_iter().zip(sizes).map(|(v, &n)| index(call, v, n)).collect::<Result<_, _>>()?;
    let (from, by) = (strides(&x.shape), strides(outer));
    let rank = outer.len();
    Ok(vec![moved(x, shape, |at| {
        let (head, tail) = at.split_at_checked(rank)?;
        let row = offset(head, &by) * width;
        let coordinate = known.get(row..row + width)?;
        Some(
            offset(&head[..batch], &from)
                + offset(coordinate, &from[batch..])
                + offset(tail, &from[end..]),
        )
    })?])
}

/// `FrozenGather`: rows of an i8 table with a scale each, or of an f32 table.
pub(super) fn frozen(call: &Call) -> Facts {
    let (table, ids) = (call.input(0)?, call.input(2)?);
    let &[rows, width] = &table.shape[..] else {
        return Err(call.invalid(format!("the table has shape {:?}, not [V, D]", table.shape)));
    };
    frozen_scale(call, table, call.optional(1), rows)?;
    known_indices(call, ids, rows)?;
    let shape = [&ids.shape[..], &[width]].concat();
    Ok(vec![Concrete::unknown(DType::F32, shape)])
}

/// A frozen weight is i8 with `n` scales, or f32 without.
pub(super) fn frozen_scale(
    call: &Call,
    weight: &Concrete,
    scale: Option<&Concrete>,
    n: usize,
) -> Result<(), GraphError> {
    match (weight.dtype, scale) {
        (DType::F32, None) => Ok(()),
        (DType::I8, Some(s)) => {
            call.need_type(s, DType::F32)?;
            call.need_shape("the scale", s, &[n])
        }
        (DType::I8, None) => Err(call.invalid("an i8 weight needs a scale")),
        (DType::F32, Some(_)) => Err(call.invalid("an f32 weight takes no scale")),
        (dtype, _) => Err(call.invalid(format!("a weight of {dtype}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{infer, testing::*};
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn gather_takes_rows() {
        let x = grid(&[3, 2], &[1, 2, 3, 4, 5, 6]);
        let t = value("Gather", attrs(), &[x.clone(), ints(&[2, -3])]);
        assert_eq!(t, Tensor::new(&[2, 2], &[5i64, 6, 1, 2]).unwrap());
        let columns = attrs().with("axis", 1);
        assert_eq!(value("Gather", columns, &[x.clone(), int(1)]), Tensor::vector(&[2i64, 4, 6]));
        assert_eq!(shape("Gather", attrs(), &[unknown(&[9, 4]), ids(&[2, 7])]), [2, 7, 4]);
        assert!(refused("Gather", attrs(), &[x.clone(), int(3)]));
        assert!(refused("Gather", attrs(), &[x.clone(), int(i64::MIN)]));
        assert!(refused("Gather", attrs(), &[x.clone(), float(0.0)]));
        assert!(refused("Gather", attrs().with("axis", 2), &[x, int(0)]));
        assert!(refused("Gather", attrs(), &[int(3), int(0)]));
    }

    #[test]
    fn gather_elements_follows_one_axis() {
        let x = grid(&[2, 2], &[1, 2, 3, 4]);
        let by = grid(&[2, 2], &[0, 0, 1, 0]);
        let t = value("GatherElements", attrs().with("axis", 1), &[x.clone(), by]);
        assert_eq!(t.to_i64().unwrap(), [1, 1, 4, 3]);
        assert!(refused("GatherElements", attrs(), &[x.clone(), ints(&[0])]));
        assert!(refused("GatherElements", attrs(), &[x, ids(&[2, 3])]));
    }

    #[test]
    fn gather_nd_reads_coordinates() {
        let x = grid(&[2, 2], &[0, 1, 2, 3]);
        let t = value("GatherND", attrs(), &[x.clone(), grid(&[2, 2], &[0, 0, 1, 1])]);
        assert_eq!(t, Tensor::vector(&[0i64, 3]));
        let t = value("GatherND", attrs(), &[x.clone(), grid(&[2, 1], &[1, 0])]);
        assert_eq!(t.to_i64().unwrap(), [2, 3, 0, 1]);
        let one = attrs().with("batch_dims", 1);
        let t = value("GatherND", one.clone(), &[x.clone(), grid(&[2, 1], &[1, 0])]);
        assert_eq!(t, Tensor::vector(&[1i64, 2]));
        assert_eq!(shape("GatherND", one, &[unknown(&[2, 5, 6]), ids(&[2, 3, 1])]), [2, 3, 6]);
        assert!(refused("GatherND", attrs(), &[x.clone(), ids(&[2, 3])]));
        assert!(refused("GatherND", attrs(), &[x.clone(), int(0)]));
        assert!(refused("GatherND", attrs(), &[x.clone(), ints(&[2])]));
        assert!(refused(
            "GatherND",
            attrs().with("batch_dims", i64::MAX),
            &[x.clone(), ids(&[2, 1])]
        ));
        assert!(refused("GatherND", attrs().with("batch_dims", 1), &[x, ids(&[3, 1])]));
    }

    #[test]
    fn frozen_tables_need_their_scale() {
        let node = node("FrozenGather", attrs());
        let table = Some(Concrete::unknown(DType::I8, [9, 4]));
        let run = |table: &Option<Concrete>, scale: Option<Concrete>, at: Concrete| {
            infer(&node, &[table.clone(), scale, Some(at)], 1)
        };
        let y = run(&table, Some(unknown(&[9])), ids(&[2, 7])).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::F32, vec![2, 7, 4]));
        assert!(run(&Some(unknown(&[9, 4])), None, ids(&[2])).is_ok());
        assert!(run(&table, None, ids(&[2])).is_err());
        assert!(run(&table, Some(unknown(&[4])), ids(&[2])).is_err());
        assert!(run(&table, Some(unknown(&[9])), ints(&[9])).is_err());
        assert!(run(&Some(unknown(&[9, 4])), Some(unknown(&[9])), ids(&[2])).is_err());
        assert!(run(&Some(ids(&[9, 4])), None, ids(&[2])).is_err());
        assert!(run(&Some(unknown(&[9])), None, ids(&[2])).is_err());
    }
}
