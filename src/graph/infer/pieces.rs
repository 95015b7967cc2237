//! Parts taken from a value, or values put together.

use super::Concrete;
use super::broadcast::{broadcast, broadcast_strides};
use super::call::{Call, Facts, like};
use super::movement::{moved, offset, strides};
use super::values::{Numbers, is_small};
use crate::graph::GraphError;
use crate::tensor::Tensor;

/// `Concat`.
pub(super) fn concat(call: &Call) -> Facts {
    let inputs = call.all()?;
    call.need_same_type(&inputs)?;
    let first = call.input(0)?;
    let axis = match call.int_attr("axis")? {
        Some(a) => call.axis(a, first.shape.len())?,
        None => return Err(call.invalid("attribute `axis` is missing")),
    };
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    for x in &inputs {
        let fits = x.shape.len() == shape.len()
            && x.shape.iter().zip(&shape).enumerate().all(|(d, (a, b))| d == axis || a == b);
        if !fits {
            let (a, b) = (&first.shape, &x.shape);
            return Err(call.invalid(format!("shapes {a:?} and {b:?} differ beside axis {axis}")));
        }
        shape[axis] = shape[axis]
            .checked_add(x.shape[axis])
            .ok_or_else(|| call.invalid("the output is too large"))?;
    }
    let values: Option<Vec<&Tensor>> = inputs.iter().map(|x| x.value.as_ref()).collect();
    let Some(values) = values.filter(|_| is_small(&shape)) else {
        return Ok(vec![like(first, shape)]);
    };
    // Without elements there may be endless empty rows.
    let rows: usize = if shape.contains(&0) { 0 } else { shape[..axis].iter().product() };
    let mut bytes = Vec::new();
    for row in 0..rows {
        for t in &values {
            let all = t.bytes();
            let n = all.len() / rows;
            bytes.extend_from_slice(&all[row * n..(row + 1) * n]);
        }
    }
    Ok(vec![Tensor::from_bytes(first.dtype, &shape, &bytes)?.into()])
}

/// The part of `x` from `start` of each axis on, in steps.
fn window(x: &Concrete, shape: Vec<usize>, start: &[usize], step: &[isize]) -> Facts {
    let strides = strides(&x.shape);
    Ok(vec![moved(x, shape, |at| {
        let mut index = 0;
        for (d, &a) in at.iter().enumerate() {
            index += start[d].checked_add_signed((a as isize).checked_mul(step[d])?)? * strides[d];
        }
        Some(index)
    })?])
}

/// `Split`: sizes from an input, or `num_outputs` parts.
pub(super) fn split(call: &Call) -> Facts {
    let x = call.input(0)?;
    let axis = call.axis_attr(0, x.shape.len())?;
    let size = x.shape[axis];
    let sizes = if let Some(sizes) = call.ints(1, "sizes")? {
        sizes.into_iter().map(|v| call.size(v, "a size")).collect::<Result<Vec<_>, _>>()?
    } else {
        let parts = call.int_or("num_outputs", call.outputs as i64)?;
        if parts <= 0 || parts != call.outputs as i64 {
            return Err(call.invalid(format!("{parts} parts for {} outputs", call.outputs)));
        }
        // All parts are equal but the last, which takes what is left.
        let each = size.div_ceil(call.outputs);
        let last = each.checked_mul(call.outputs - 1).and_then(|n| size.checked_sub(n));
        let last = last.ok_or_else(|| call.invalid(format!("{size} makes no {parts} parts")))?;
        let mut sizes = vec![each; call.outputs];
        sizes[call.outputs - 1] = last;
        sizes
    };
    let total = sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s));
    if total != Some(size) {
        return Err(call.invalid(format!("sizes {sizes:?} do not add up to {size}")));
    }
    let mut start = vec![0; x.shape.len()];
    let step = vec![1; x.shape.len()];
    let mut parts = Vec::new();
    for n in sizes {
        let mut shape = x.shape.clone();
        shape[axis] = n;
        parts.extend(window(x, shape, &start, &step)?);
        start[axis] += n;
    }
    Ok(parts)
}

/// `Slice`.
pub(super) fn slice(call: &Call) -> Facts {
    let x = call.input(0)?;
    let rank = x.shape.len();
    let starts = call.need_ints(1, "starts")?;
    let ends = call.need_ints(2, "ends")?;
    let axes = call.ints(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.ints(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return Err(call.invalid("starts, ends, axes and steps differ in length"));
    }
    call.axes(&axes, rank)?;
    let mut shape = x.shape.clone();
    let (mut start, mut step) = (vec![0usize; rank], vec![1isize; rank]);
    for i in 0..starts.len() {
        let axis = call.axis(axes[i], rank)?;
        if steps[i] == 0 {
            return Err(call.invalid("a step of zero"));
        }
        let (first, n) = span(x.shape[axis], starts[i], ends[i], steps[i]);
        shape[axis] = n;
        start[axis] = first;
        step[axis] = steps[i] as isize;
    }
    window(x, shape, &start, &step)
}

/// First index and number of the elements that a slice takes from an axis of `size`.
fn span(size: usize, start: i64, end: i64, step: i64) -> (usize, usize) {
    if size == 0 {
        return (0, 0);
    }
    let n = size as i64;
    let from_start = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let end = from_start(end).clamp(low, high);
    let start = from_start(start).clamp(low.max(0), high);
    let distance = if step > 0 { end - start } else { start - end };
    let taken = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    (start as usize, taken as usize)
}

/// `Pad`: constant, edge, reflect or wrap; a negative pad removes.
pub(super) fn pad(call: &Call) -> Facts {
    let x = call.input(0)?;
    let pads = call.need_ints(1, "pads")?;
    let rank = x.shape.len();
    let axes = call.ints(3, "axes")?.unwrap_or_else(|| (0..rank as i64).collect());
    call.axes(&axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(call.invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mode = call.str_or("mode", "constant")?;
    if !matches!(mode, "constant" | "edge" | "reflect" | "wrap") {
        return Err(call.invalid(format!("mode `{mode}`")));
    }
    let fill = call.optional(2);
    if let Some(f) = fill {
        call.need_same_type(&[x, f])?;
    }
    let mut shape = x.shape.clone();
    let mut before = vec![0i64; rank];
    for (i, &a) in axes.iter().enumerate() {
        let axis = call.axis(a, rank)?;
        let (left, right, size) = (pads[i], pads[i + axes.len()], x.shape[axis]);
        shape[axis] = padded(call, mode, size, left, right)?;
        before[axis] = left;
    }
    let zero = [0u8; 8];
    let fill = match fill {
        None => Some(&zero[..x.dtype.size()]),
        Some(Concrete { value: Some(t), .. }) if t.len() == 1 => Some(t.bytes()),
        Some(_) => None,
    };
    let (Some(t), Some(fill), true) = (&x.value, fill, is_small(&shape)) else {
        return Ok(vec![like(x, shape)]);
    };
    let strides = strides(&x.shape);
    let mut source = |at: &[usize]| {
        let mut index = 0;
        for d in 0..rank {
            let (v, n) = ((at[d] as i64).saturating_sub(before[d]), x.shape[d] as i64);
            let v = match mode {
                "edge" => v.clamp(0, n - 1),
                "reflect" if v < 0 => -v,
                "reflect" if v >= n => (n - 1) - (v - (n - 1)),
                "wrap" => v.rem_euclid(n),
                _ => v,
            };
            index += usize::try_from(v).ok().filter(|&v| v < x.shape[d])? * strides[d];
        }
        Some(index)
    };
    Ok(vec![super::movement::rearrange_or(t, &shape, fill, &mut source)?.into()])
}

fn padded(
    call: &Call,
    mode: &str,
    size: usize,
    left: i64,
    right: i64,
) -> Result<usize, GraphError> {
    let sum = size as i128 + i128::from(left) + i128::from(right);
    let bad = || call.invalid(format!("pads {left} and {right} do not fit size {size} ({mode})"));
    // Without elements there is nothing to repeat.
    if mode != "constant" && size == 0 && sum > 0 {
        return Err(bad());
    }
    if mode == "reflect" && [left, right].iter().any(|&p| p > 0 && p as usize >= size) {
        return Err(bad());
    }
    usize::try_from(sum).ok().filter(|&n| n <= isize::MAX as usize).ok_or_else(bad)
}

/// `Expand`: the shape and the input broadcast to each other.
pub(super) fn expand(call: &Call) -> Facts {
    let x = call.input(0)?;
    let target = call.need_sizes(1, "a shape")?;
    let shape = broadcast(&x.shape, &target).ok_or_else(|| {
        call.invalid(format!("shape {:?} does not broadcast with {target:?}", x.shape))
    })?;
    let strides = broadcast_strides(&x.shape, &shape);
    Ok(vec![moved(x, shape, |at| Some(offset(at, &strides)))?])
}

/// `Tile`.
pub(super) fn tile(call: &Call) -> Facts {
    let x = call.input(0)?;
    let repeats = call.need_sizes(1, "repeats")?;
    if repeats.len() != x.shape.len() {
        let rank = x.shape.len();
        return Err(call.invalid(format!("{} repeats for rank {rank}", repeats.len())));
    }
    let shape = x.shape.iter().zip(repeats).map(|(d, r)| d.checked_mul(r));
    let shape: Option<Vec<usize>> = shape.collect();
    let shape = shape.ok_or_else(|| call.invalid("the output is too large"))?;
    let strides = strides(&x.shape);
    Ok(vec![moved(x, shape, |at| {
        Some(at.iter().zip(&x.shape).zip(&strides).map(|((a, d), s)| a % d * s).sum())
    })?])
}

/// `Trilu`: the elements on one side of diagonal `k` of each matrix, the others zero.
pub(super) fn trilu(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_rank("the input", x, 2)?;
    let upper = call.flag("upper", true)?;
    let k = match call.optional(1) {
        None => Some(0),
        Some(k) => {
            call.need_index(k)?;
            match Numbers::of(k) {
                Some(Numbers::Ints(v)) if v.len() == 1 => v.first().copied(),
                Some(_) => return Err(call.invalid("k must be a scalar")),
                None => None,
            }
        }
    };
    let Some(k) = k else { return Ok(vec![like(x, x.shape.clone())]) };
    let strides = strides(&x.shape);
    Ok(vec![moved(x, x.shape.clone(), |at| {
        let &[.., row, column] = at else { return None };
        // Positive above the diagonal.
        let side = (column as i64 - row as i64).saturating_sub(k);
        let kept = if upper { side >= 0 } else { side <= 0 };
        kept.then(|| offset(at, &strides))
    })?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn concat_joins() {
        let axis = |a: i64| attrs().with("axis", a);
        let (a, b) = (grid(&[2, 1], &[1, 2]), grid(&[2, 2], &[3, 4, 5, 6]));
        let t = value("Concat", axis(-1), &[a.clone(), b.clone()]);
        assert_eq!(t, Tensor::new(&[2, 3], &[1i64, 3, 4, 2, 5, 6]).unwrap());
        let empty = grid(&[0, 2], &[]);
        let t = value("Concat", axis(1), &[empty.clone(), empty.clone()]);
        assert_eq!(t.shape(), [0, 4]);
        assert_eq!(value("Concat", axis(0), &[empty, b.clone()]).shape(), [2, 2]);
        assert!(refused("Concat", axis(0), &[a.clone(), b.clone()]));
        assert!(refused("Concat", attrs(), &[a.clone(), a.clone()]));
        assert!(refused("Concat", axis(2), &[a.clone(), a.clone()]));
        assert!(refused("Concat", axis(0), &[int(1)]));
        assert!(refused("Concat", axis(0), &[ints(&[1]), floats(&[1.0])]));
        assert!(refused("Concat", axis(0), &[]));
        let huge = unknown(&[isize::MAX as usize / 4]);
        assert!(refused("Concat", axis(0), &[huge.clone(), huge]));
    }

    #[test]
    fn split_cuts() {
        let x = ints(&[1, 2, 3, 4, 5]);
        let parts = |attrs, inputs: &[Concrete], n| -> Vec<Vec<i64>> {
            let parts = run_n("Split", attrs, inputs, n).unwrap();
            parts.iter().map(|p| p.value.as_ref().unwrap().to_i64().unwrap()).collect()
        };
        assert_eq!(parts(attrs(), &[x.clone(), ints(&[1, 4])], 2), [vec![1], vec![2, 3, 4, 5]]);
        let two = attrs().with("num_outputs", 2);
        assert_eq!(parts(two.clone(), std::slice::from_ref(&x), 2), [vec![1, 2, 3], vec![4, 5]]);
        assert!(run_n("Split", two, std::slice::from_ref(&x), 3).is_err());
        assert!(run_n("Split", attrs(), &[x.clone(), ints(&[1, 3])], 2).is_err());
        assert!(run_n("Split", attrs(), &[x.clone(), ints(&[-1, 6])], 2).is_err());
        assert!(run_n("Split", attrs(), std::slice::from_ref(&x), 0).is_err());
        // Parts of 2 leave nothing for the fourth.
        assert!(run_n("Split", attrs(), &[x], 4).is_err());
    }

    #[test]
    fn slice_clamps_like_the_standard() {
        let x = ints(&[0, 1, 2, 3, 4]);
        let cut = |s, e, step| {
            let inputs = [x.clone(), ints(&[s]), ints(&[e]), ints(&[0]), ints(&[step])];
            value("Slice", attrs(), &inputs).to_i64().unwrap()
        };
        assert_eq!(cut(1, 3, 1), [1, 2]);
        assert_eq!(cut(-2, i64::MAX, 1), [3, 4]);
        assert_eq!(cut(0, 5, 2), [0, 2, 4]);
        assert_eq!(cut(-1, i64::MIN, -1), [4, 3, 2, 1, 0]);
        assert_eq!(cut(i64::MAX, 0, -2), [4, 2]);
        assert_eq!(cut(3, 1, 1), [0i64; 0]);
        assert_eq!(cut(0, i64::MAX, i64::MAX), [0]);
        assert_eq!(cut(4, i64::MIN, i64::MIN), [4]);
        assert!(refused("Slice", attrs(), &[x.clone(), ints(&[0]), ints(&[1, 2])]));
        let inputs = [x.clone(), ints(&[0]), ints(&[1]), ints(&[0]), ints(&[0])];
        assert!(refused("Slice", attrs(), &inputs));
        assert!(refused("Slice", attrs(), &[x.clone(), ints(&[0]), ints(&[1]), ints(&[1])]));
        let twice = [x.clone(), ints(&[0, 0]), ints(&[1, 1]), ints(&[0, -1])];
        assert!(refused("Slice", attrs(), &twice));
        let e = run("Slice", attrs(), &[x, ints(&[0]), ids(&[1])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    proptest! {
        /// Against Python's own definition of slicing, by walking.
        #[test]
        fn spans_agree_with_walking(size in 0usize..6, start in -8i64..8, end in -8i64..8, step in -3i64..4) {
            prop_assume!(step != 0);
            let n = size as i64;
            let from = |v: i64| if v < 0 { v + n } else { v };
            let mut at = match step > 0 {
                true => from(start).max(0),
                false => from(start).min(n - 1),
            };
            let end_at = from(end);
            let mut want = Vec::new();
            while (0..n).contains(&at) && (if step > 0 { at < end_at } else { at > end_at }) {
                want.push(at as usize);
                at += step;
            }
            // A start before the beginning of a backward slice is clamped to the first element.
            prop_assume!(!(step < 0 && from(start) < 0));
            let (first, taken) = span(size, start, end, step);
            let got: Vec<usize> =
                (0..taken).map(|i| (first as i64 + i as i64 * step) as usize).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn pads_fill() {
        let x = ints(&[1, 2, 3]);
        let pad = |mode: &str, l, r| {
            let mode = attrs().with("mode", mode);
            value("Pad", mode, &[x.clone(), ints(&[l, r])]).to_i64().unwrap()
        };
        assert_eq!(pad("constant", 1, 2), [0, 1, 2, 3, 0, 0]);
        assert_eq!(pad("constant", -1, 1), [2, 3, 0]);
        assert_eq!(pad("edge", 1, 2), [1, 1, 2, 3, 3, 3]);
        assert_eq!(pad("reflect", 2, 1), [3, 2, 1, 2, 3, 2]);
        assert_eq!(pad("wrap", 1, 1), [3, 1, 2, 3, 1]);
        let v = value("Pad", attrs(), &[x.clone(), ints(&[0, 1]), int(9)]);
        assert_eq!(v, Tensor::vector(&[1i64, 2, 3, 9]));
        let axes = [unknown(&[2, 3]), ints(&[1, 1]), float(0.0), ints(&[-1])];
        assert_eq!(shape("Pad", attrs(), &axes), [2, 5]);
        let bad = |v: &[i64]| refused("Pad", attrs(), &[x.clone(), ints(v)]);
        assert!(bad(&[1]) && bad(&[-2, -2]) && bad(&[i64::MAX, i64::MAX]));
        let reflect = attrs().with("mode", "reflect");
        assert!(refused("Pad", reflect, &[x.clone(), ints(&[3, 0])]));
        assert!(refused("Pad", attrs().with("mode", "mirror"), &[x.clone(), ints(&[0, 0])]));
        assert!(refused("Pad", attrs(), &[x, ints(&[0, 0]), float(0.0)]));
    }

    #[test]
    fn copies_repeat() {
        let x = grid(&[2, 1], &[1, 2]);
        let t = value("Expand", attrs(), &[x.clone(), ints(&[3, 1, 2])]);
        assert_eq!(t.shape(), [3, 2, 2]);
        assert_eq!(t.to_i64().unwrap()[..4], [1, 1, 2, 2]);
        assert_eq!(shape("Expand", attrs(), &[unknown(&[3, 4]), ints(&[1])]), [3, 4]);
        let t = value("Tile", attrs(), &[x.clone(), ints(&[2, 2])]);
        assert_eq!(t.to_i64().unwrap(), [1, 1, 2, 2, 1, 1, 2, 2]);
        assert!(refused("Expand", attrs(), &[x.clone(), ints(&[3, 2])]));
        assert!(refused("Expand", attrs(), &[x.clone(), ints(&[-1])]));
        assert!(refused("Tile", attrs(), &[x.clone(), ints(&[2])]));
        assert!(refused("Tile", attrs(), &[x, ints(&[i64::MAX, 3])]));
    }

    #[test]
    fn triangles_keep_one_side() {
        let x = grid(&[2, 2], &[1, 2, 3, 4]);
        let t = |upper: i64, k: i64| {
            let upper = attrs().with("upper", upper);
            value("Trilu", upper, &[x.clone(), int(k)]).to_i64().unwrap()
        };
        assert_eq!(t(1, 0), [1, 2, 0, 4]);
        assert_eq!(t(1, 1), [0, 2, 0, 0]);
        assert_eq!(t(0, 0), [1, 0, 3, 4]);
        assert_eq!(t(0, i64::MIN), [0; 4]);
        assert_eq!(t(1, i64::MIN), [1, 2, 3, 4]);
        assert!(refused("Trilu", attrs(), &[ints(&[1])]));
        let y = run("Trilu", attrs(), &[x, ids(&[])]).unwrap().remove(0);
        assert!(y.value.is_none());
    }
}
