//! `Where`, `Clip` and the casts.

use super::Concrete;
use super::broadcast::{common_shape, spread};
use super::call::{Call, Facts, elements, like};
use super::values::{Numbers, is_small};
use crate::graph::onnx::dtype;
use crate::tensor::DType;

/// `Where`.
pub(super) fn select(call: &Call) -> Facts {
    let (cond, x, y) = (call.input(0)?, call.input(1)?, call.input(2)?);
    call.need_type(cond, DType::Bool)?;
    call.need_same_type(&[x, y])?;
    let shape = common_shape(call, &[cond, x, y])?;
    fn pick<T: Copy>(cond: &[i64], x: Vec<T>, y: Vec<T>) -> Vec<T> {
        cond.iter().zip(x).zip(y).map(|((&c, x), y)| if c != 0 { x } else { y }).collect()
    }
    if is_small(&shape)
        && let (Some(Numbers::Ints(c)), Some(a), Some(b)) =
            (Numbers::of(cond), Numbers::of(x), Numbers::of(y))
    {
        let c = spread(c, &cond.shape, &shape);
        let picked = match (a, b) {
            (Numbers::Ints(a), Numbers::Ints(b)) => Some(Numbers::Ints(pick(
                &c,
                spread(a, &x.shape, &shape),
                spread(b, &y.shape, &shape),
            ))),
            (Numbers::Floats(a), Numbers::Floats(b)) => Some(Numbers::Floats(pick(
                &c,
                spread(a, &x.shape, &shape),
                spread(b, &y.shape, &shape),
            ))),
            _ => None,
        };
        if let Some(v) = picked {
            return Ok(vec![v.tensor(x.dtype, &shape)?.into()]);
        }
    }
    Ok(vec![like(x, shape)])
}

/// `Clip`: the bounds are optional scalars.
pub(super) fn clip(call: &Call) -> Facts {
    let x = call.input(0)?;
    if x.dtype == DType::Bool {
        return Err(call.invalid("a numeric input is needed, not bool"));
    }
    let mut bounds = Vec::new();
    for bound in [call.optional(1), call.optional(2)] {
        if let Some(b) = bound {
            call.need_type(b, x.dtype)?;
            if b.shape.iter().any(|&d| d != 1) {
                return Err(call.invalid(format!("a bound has shape {:?}, not []", b.shape)));
            }
        }
        bounds.push(bound.map(Numbers::of));
    }
    // A bound that is there but not known leaves the elements unknown.
    let known = bounds.iter().all(|b| !matches!(b, Some(None)));
    fn clamp<T: Copy>(
        v: Vec<T>,
        low: T,
        high: T,
        max: fn(T, T) -> T,
        min: fn(T, T) -> T,
    ) -> Vec<T> {
        v.into_iter().map(|v| min(max(v, low), high)).collect()
    }
    let clipped = match (known, Numbers::of(x)) {
        (true, Some(Numbers::Ints(v))) => {
            let at = |i: usize, default| match bounds.get(i) {
                Some(Some(Some(Numbers::Ints(b)))) => b.first().copied().unwrap_or(default),
                _ => default,
            };
            Numbers::Ints(clamp(v, at(0, i64::MIN), at(1, i64::MAX), i64::max, i64::min))
        }
        (true, Some(Numbers::Floats(v))) => {
            let at = |i: usize, default| match bounds.get(i) {
                Some(Some(Some(Numbers::Floats(b)))) => b.first().copied().unwrap_or(default),
                _ => default,
            };
            let (low, high) = (at(0, f64::NEG_INFINITY), at(1, f64::INFINITY));
            // f64::max would replace a NaN.
            let max = |v: f64, b: f64| if v < b { b } else { v };
            let min = |v: f64, b: f64| if v > b { b } else { v };
            Numbers::Floats(clamp(v, low, high, max, min))
        }
        _ => return Ok(vec![like(x, x.shape.clone())]),
    };
    Ok(vec![clipped.tensor(x.dtype, &x.shape)?.into()])
}

/// `Cast` and `CastLike`.
pub(super) fn cast(call: &Call) -> Facts {
    let x = call.input(0)?;
    let to = if call.node.op == "CastLike" {
        call.input(1)?.dtype
    } else {
        let number =
            call.int_attr("to")?.ok_or_else(|| call.invalid("attribute `to` is missing"))?;
        i32::try_from(number)
            .ok()
            .and_then(dtype)
            .ok_or_else(|| call.node.unsupported(&format!("element type {number}")))?
    };
    if to == x.dtype {
        return Ok(vec![x.clone()]);
    }
    // No size is computed from many floats: those are weights, and would be held twice.
    let weights = x.dtype.is_float() && to.is_float() && elements(x.shape.iter().copied()) > MANY;
    Ok(vec![match Numbers::of(x).filter(|_| !weights) {
        Some(v) => v.tensor(to, &x.shape)?.into(),
        None => Concrete::unknown(to, x.shape.clone()),
    }])
}

/// Floats from this number on are taken for weights.
const MANY: Option<usize> = Some(4096);

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn where_picks_and_broadcasts() {
        let v = value("Where", attrs(), &[bools(&[true, false]), float(0.0), float(f32::MIN)]);
        assert_eq!(v, Tensor::vector(&[0.0, f32::MIN]));
        let inputs = [bools(&[true]), unknown(&[3, 1]), unknown(&[1, 4])];
        assert_eq!(shape("Where", attrs(), &inputs), [3, 4]);
        assert!(refused("Where", attrs(), &[ids(&[1]), unknown(&[1]), unknown(&[1])]));
        assert!(refused("Where", attrs(), &[bools(&[true]), ids(&[1]), unknown(&[1])]));
        assert!(refused("Where", attrs(), &[bools(&[true, true]), unknown(&[3]), unknown(&[1])]));
    }

    #[test]
    fn clip_takes_scalars() {
        let v = value("Clip", attrs(), &[ints(&[-3, 0, 9]), int(-1), int(4)]);
        assert_eq!(v, Tensor::vector(&[-1i64, 0, 4]));
        let v = value("Clip", attrs(), &[floats(&[-3.0, f32::NAN]), float(-1.0)]);
        assert!(v.to_f32()[0] == -1.0 && v.to_f32()[1].is_nan());
        assert!(refused("Clip", attrs(), &[unknown(&[3]), unknown(&[3])]));
        assert!(refused("Clip", attrs(), &[unknown(&[3]), int(0)]));
        let y = run("Clip", attrs(), &[floats(&[1.0]), unknown(&[])]).unwrap().remove(0);
        assert!(y.value.is_none());
    }

    #[test]
    fn casts_convert() {
        let v = value("Cast", attrs().with("to", 7), &[floats(&[1.9, -1.9])]);
        assert_eq!(v, Tensor::vector(&[1i64, -1]));
        let v = value("Cast", attrs().with("to", 9), &[ints(&[2, 0])]);
        assert_eq!(v, Tensor::bools(&[2], &[true, false]).unwrap());
        let y = run("CastLike", attrs(), &[ids(&[2, 3]), unknown(&[])]).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::F32, vec![2, 3]));
        assert!(refused("Cast", attrs(), &[ids(&[2])]));
        assert!(refused("Cast", attrs().with("to", 1.0), &[ids(&[2])]));
        let e = run("Cast", attrs().with("to", 8), &[ids(&[2])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
        assert!(run("Cast", attrs().with("to", i64::MAX), &[ids(&[2])]).is_err());
    }
}
