//! Reductions and running sums.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::movement::{for_each, offset, strides};
use super::values::{Numbers, is_small};
use crate::tensor::DType;

/// All operators that start with `Reduce`.
pub(super) fn reduce(call: &Call) -> Facts {
    let x = call.input(0)?;
    let op = call.node.op.as_str();
    let boolean = x.dtype == DType::Bool && !matches!(op, "ReduceMin" | "ReduceMax");
    if boolean {
        return Err(call.invalid("a numeric input is needed, not bool"));
    }
    let rank = x.shape.len();
    let axes = call.axes_input(1)?.unwrap_or_default();
    if axes.is_empty() && call.flag("noop_with_empty_axes", false)? {
        // What these do beside reducing still happens to each element.
        let changes = matches!(
            op,
            "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp"
        );
        return Ok(vec![if changes { like(x, x.shape.clone()) } else { x.clone() }]);
    }
    let gone = if axes.is_empty() { vec![true; rank] } else { call.axes(&axes, rank)? };
    let keep = call.flag("keepdims", true)?;
    let kept: Vec<usize> =
        x.shape.iter().zip(&gone).map(|(&d, &gone)| if gone { 1 } else { d }).collect();
    let shape = drop_axes(&kept, &gone, keep);
    let known = match Numbers::of(x) {
        Some(v) if is_small(&kept) => fold(op, v, &x.shape, &kept),
        _ => None,
    };
    Ok(vec![match known {
        Some(v) => v.tensor(x.dtype, &shape)?.into(),
        None => like(x, shape),
    }])
}

/// The dimensions of a reduction's output.
pub(super) fn drop_axes(kept: &[usize], gone: &[bool], keep: bool) -> Vec<usize> {
    kept.iter().zip(gone).filter(|(_, gone)| keep || !**gone).map(|(&d, _)| d).collect()
}

/// Folds elements of `shape` into those of `kept`; `None` for operators whose elements are not
/// computed, and for a mean or an extreme of nothing.
fn fold(op: &str, v: Numbers, shape: &[usize], kept: &[usize]) -> Option<Numbers> {
    let n: usize = kept.iter().product();
    let each = v.len().checked_div(n).unwrap_or(0);
    if each == 0 && !matches!(op, "ReduceSum" | "ReduceProd" | "ReduceSumSquare" | "ReduceL1") {
        return None;
    }
    Some(match v {
        Numbers::Ints(v) => {
            let (first, step): (i64, fn(i64, i64) -> i64) = match op {
                "ReduceSum" | "ReduceMean" => (0, i64::wrapping_add),
                "ReduceProd" => (1, i64::wrapping_mul),
                "ReduceMin" => (i64::MAX, i64::min),
                "ReduceMax" => (i64::MIN, i64::max),
                "ReduceL1" => (0, |a, v| a.wrapping_add(v.wrapping_abs())),
                "ReduceSumSquare" => (0, |a, v| a.wrapping_add(v.wrapping_mul(v))),
                _ => return None,
            };
            let mut out = accumulate(&v, shape, kept, first, step);
            if op == "ReduceMean" {
                out.iter_mut().for_each(|a| *a /= each as i64);
            }
            Numbers::Ints(out)
        }
        Numbers::Floats(v) => {
            let (first, step): (f64, fn(f64, f64) -> f64) = match op {
                "ReduceSum" | "ReduceMean" => (0.0, |a, v| a + v),
                "ReduceProd" => (1.0, |a, v| a * v),
                // A NaN stays.
                "ReduceMin" => (f64::INFINITY, |a, v| if a.is_nan() || a < v { a } else { v }),
                "ReduceMax" => (f64::NEG_INFINITY, |a, v| if a.is_nan() || a > v { a } else { v }),
                "ReduceL1" => (0.0, |a, v| a + v.abs()),
                "ReduceL2" | "ReduceSumSquare" => (0.0, |a, v| a + v * v),
                _ => return None,
            };
            let mut out = accumulate(&v, shape, kept, first, step);
            match op {
                "ReduceMean" => out.iter_mut().for_each(|a| *a /= each as f64),
                "ReduceL2" => out.iter_mut().for_each(|a| *a = a.sqrt()),
                _ => {}
            }
            Numbers::Floats(out)
        }
    })
}

fn accumulate<T: Copy>(
    v: &[T],
    shape: &[usize],
    kept: &[usize],
    first: T,
    step: fn(T, T) -> T,
) -> Vec<T> {
    let mut out = vec![first; kept.iter().product()];
    let to: Vec<usize> =
        strides(kept).iter().zip(kept).map(|(&s, &d)| if d == 1 { 0 } else { s }).collect();
    let mut elements = v.iter();
    for_each(shape, |at| {
        if let (Some(a), Some(&v)) = (out.get_mut(offset(at, &to)), elements.next()) {
            *a = step(*a, v);
        }
    });
    out
}

/// `CumSum`.
pub(super) fn cumsum(call: &Call) -> Facts {
    let (x, axis) = (call.input(0)?, call.input(1)?);
    call.need_index(axis)?;
    if x.dtype == DType::Bool {
        return Err(call.invalid("a numeric input is needed, not bool"));
    }
    let (exclusive, reverse) = (call.flag("exclusive", false)?, call.flag("reverse", false)?);
    let axis = match Numbers::of(axis) {
        Some(Numbers::Ints(v)) => match v[..] {
            [a] => Some(call.axis(a, x.shape.len())?),
            _ => return Err(call.invalid("the axis must be a scalar")),
        },
        _ => None,
    };
    let (Some(axis), Some(v)) = (axis, Numbers::of(x)) else {
        return Ok(vec![like(x, x.shape.clone())]);
    };
    let sums = match v {
        Numbers::Ints(v) => {
            Numbers::Ints(running(v, &x.shape, axis, exclusive, reverse, 0, i64::wrapping_add))
        }
        Numbers::Floats(v) => {
            Numbers::Floats(running(v, &x.shape, axis, exclusive, reverse, 0.0, |a, b| a + b))
        }
    };
    Ok(vec![sums.tensor(x.dtype, &x.shape)?.into()])
}

fn running<T: Copy>(
    v: Vec<T>,
    shape: &[usize],
    axis: usize,
    exclusive: bool,
    reverse: bool,
    zero: T,
    add: fn(T, T) -> T,
) -> Vec<T> {
    let mut out = v.clone();
    let (stride, n) = (strides(shape)[axis], shape[axis]);
    let mut lines = shape.to_vec();
    lines[axis] = n.min(1);
    for_each(&lines, |at| {
        let base = offset(at, &strides(shape));
        let mut sum = zero;
        for i in 0..n {
            let i = base + stride * if reverse { n - 1 - i } else { i };
            let before = sum;
            sum = add(sum, v[i]);
            out[i] = if exclusive { before } else { sum };
        }
    });
    out
}

/// `ArgMax` and `ArgMin`.
pub(super) fn arg(call: &Call) -> Facts {
    let x = call.input(0)?;
    let axis = call.axis_attr(0, x.shape.len())?;
    if x.shape[axis] == 0 {
        return Err(call.invalid(format!("axis {axis} has no elements")));
    }
    let mut kept = x.shape.clone();
    kept[axis] = 1;
    let gone: Vec<bool> = (0..kept.len()).map(|d| d == axis).collect();
    Ok(vec![Concrete::unknown(DType::I64, drop_axes(&kept, &gone, call.flag("keepdims", true)?))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn shapes_shrink() {
        let x = unknown(&[2, 3, 4]);
        let drop = attrs().with("keepdims", 0);
        assert_eq!(shape("ReduceMean", attrs(), &[x.clone(), ints(&[-1])]), [2, 3, 1]);
        assert_eq!(shape("ReduceMean", drop.clone(), &[x.clone(), ints(&[0, 2])]), [3]);
        assert_eq!(shape("ReduceLogSumExp", drop.clone(), std::slice::from_ref(&x)), [0usize; 0]);
        assert_eq!(
            shape("ReduceL2", attrs().with("axes", &[1][..]), std::slice::from_ref(&x)),
            [2, 1, 4]
        );
        let noop = attrs().with("noop_with_empty_axes", 1);
        assert_eq!(shape("ReduceSum", noop.clone(), &[x.clone(), ints(&[])]), [2, 3, 4]);
        assert_eq!(value("ReduceSum", noop.clone(), &[ints(&[-1, 2])]).to_i64().unwrap(), [-1, 2]);
        let y = run("ReduceL1", noop, &[ints(&[-1, 2])]).unwrap().remove(0);
        assert!(y.value.is_none());
        assert!(refused("ReduceSum", attrs(), &[x.clone(), ints(&[3])]));
        assert!(refused("ReduceSum", attrs(), &[x.clone(), ints(&[1, -2])]));
        assert!(refused("ReduceSum", attrs(), &[bools(&[true])]));
        assert!(refused("ReduceSum", attrs(), &[x.clone(), floats(&[1.0])]));
        let e = run("ReduceSum", attrs(), &[x, ids(&[1])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn small_values_are_folded() {
        let x = grid(&[2, 3], &[1, 2, 3, 4, 5, 7]);
        let by = |op, axis: i64| value(op, attrs(), &[x.clone(), ints(&[axis])]).to_i64().unwrap();
        assert_eq!(by("ReduceSum", 0), [5, 7, 10]);
        assert_eq!(by("ReduceProd", 1), [6, 140]);
        assert_eq!(by("ReduceMax", 1), [3, 7]);
        assert_eq!(by("ReduceMin", 0), [1, 2, 3]);
        assert_eq!(by("ReduceMean", 1), [2, 5]);
        assert_eq!(by("ReduceSumSquare", 0), [17, 29, 58]);
        let l2 = value("ReduceL2", attrs(), &[floats(&[3.0, 4.0])]);
        assert_eq!(l2, Tensor::vector(&[5f32]));
        let nothing = grid(&[0, 2], &[]);
        let v = value("ReduceProd", attrs(), &[nothing.clone(), ints(&[0])]);
        assert_eq!(v.to_i64().unwrap(), [1, 1]);
        let y = run("ReduceMax", attrs(), &[nothing, ints(&[0])]).unwrap().remove(0);
        assert!(y.value.is_none());
        let nan = value("ReduceMax", attrs(), &[floats(&[1.0, f32::NAN, 2.0])]);
        assert!(nan.to_f32()[0].is_nan());
    }

    #[test]
    fn empty_inputs_do_not_grow() {
        let wide = Concrete::from(Tensor::zeros(DType::I8, &[0, 1 << 24]));
        let y = run("ReduceSum", attrs(), &[wide, ints(&[0])]).unwrap().remove(0);
        assert_eq!(y.shape, [1, 1 << 24]);
        assert!(y.value.is_none());
    }

    #[test]
    fn running_sums() {
        let x = grid(&[2, 2], &[1, 2, 3, 4]);
        let sum = |attrs, axis| value("CumSum", attrs, &[x.clone(), int(axis)]).to_i64().unwrap();
        assert_eq!(sum(attrs(), 1), [1, 3, 3, 7]);
        assert_eq!(sum(attrs(), -2), [1, 2, 4, 6]);
        let both = attrs().with("exclusive", 1).with("reverse", 1);
        assert_eq!(sum(both, 1), [2, 0, 4, 0]);
        assert_eq!(shape("CumSum", attrs(), &[ids(&[2, 7]), int(1)]), [2, 7]);
        assert!(refused("CumSum", attrs(), &[x.clone(), int(2)]));
        assert!(refused("CumSum", attrs(), &[x.clone(), ints(&[0, 1])]));
        assert!(refused("CumSum", attrs(), &[x, float(0.0)]));
    }

    #[test]
    fn positions_are_i64() {
        let y = run("ArgMax", attrs().with("axis", -1), &[unknown(&[2, 3])]).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::I64, vec![2, 1]));
        let drop = attrs().with("axis", 0).with("keepdims", 0);
        assert_eq!(shape("ArgMin", drop, &[unknown(&[2, 3])]), [3]);
        assert!(refused("ArgMax", attrs(), &[unknown(&[0, 3])]));
        assert!(refused("ArgMax", attrs(), &[unknown(&[])]));
    }
}
