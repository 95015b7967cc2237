//! Two or more inputs that broadcast.

use super::Concrete;
use super::broadcast::{common_shape, spread};
use super::call::{Call, Facts};
use super::values::{Numbers, is_small};
use crate::graph::GraphError;
use crate::tensor::DType;

/// `Add`, `Sub`, `Mul`, `Div`, `Mod`.
pub(super) fn arithmetic(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.need_same_type(&[a, b])?;
    if a.dtype == DType::Bool {
        return Err(call.invalid("numeric inputs are needed, not bool"));
    }
    let truncated = call.flag("fmod", false)?;
    let op = call.node.op.as_str();
    if op == "Mod" && a.dtype.is_float() && !truncated {
        return Err(call.invalid("floating point inputs need fmod=1"));
    }
    let int = |x: i64, y: i64| match op {
        "Add" => Some(x.wrapping_add(y)),
        "Sub" => Some(x.wrapping_sub(y)),
        "Mul" => Some(x.wrapping_mul(y)),
        _ if y == 0 => None,
        "Div" => Some(x.wrapping_div(y)),
        _ if truncated => Some(x.wrapping_rem(y)),
        // The remainder takes the sign of the divisor.
        _ => {
            let r = x.wrapping_rem(y);
            Some(if r != 0 && (r < 0) != (y < 0) { r + y } else { r })
        }
    };
    let float = |x: f64, y: f64| match op {
        "Add" => x + y,
        "Sub" => x - y,
        "Mul" => x * y,
        "Div" => x / y,
        _ => x % y,
    };
    zip(call, a, b, a.dtype, |shape| {
        Ok(match pair(a, b, shape) {
            Some((Numbers::Ints(x), Numbers::Ints(y))) => {
                let v: Option<_> = x.into_iter().zip(y).map(|(x, y)| int(x, y)).collect();
                Some(Numbers::Ints(v.ok_or_else(|| call.invalid("integer division by zero"))?))
            }
            Some((Numbers::Floats(x), Numbers::Floats(y))) => {
                Some(Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| float(x, y)).collect()))
            }
            _ => None,
        })
    })
}

/// `Pow`: the types may differ, the base decides.
pub(super) fn pow(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    if a.dtype == DType::Bool || b.dtype == DType::Bool {
        return Err(call.invalid("numeric inputs are needed, not bool"));
    }
    let float = |x: Vec<f64>, y: Vec<f64>| {
        Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| x.powf(y)).collect())
    };
    zip(call, a, b, a.dtype, |shape| {
        Ok(pair(a, b, shape).map(|(x, y)| match (x, y) {
            (Numbers::Ints(x), Numbers::Ints(y)) => {
                Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| int_pow(x, y)).collect())
            }
            (x, y) => float(widen(x), widen(y)),
        }))
    })
}

fn int_pow(x: i64, y: i64) -> i64 {
    match u32::try_from(y) {
        Ok(y) => x.wrapping_pow(y),
        Err(_) => (x as f64).powf(y as f64) as i64,
    }
}

fn widen(n: Numbers) -> Vec<f64> {
    match n {
        Numbers::Ints(v) => v.into_iter().map(|v| v as f64).collect(),
        Numbers::Floats(v) => v,
    }
}

/// `And`, `Or`, `Xor`.
pub(super) fn logic(call: &Call) -> Facts {
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.need_type(a, DType::Bool)?;
    call.need_type(b, DType::Bool)?;
    let f: fn(i64, i64) -> i64 = match call.node.op.as_str() {
        "And" => |x, y| x & y,
        "Or" => |x, y| x | y,
        _ => |x, y| x ^ y,
    };
    zip(call, a, b, DType::Bool, |shape| {
        Ok(match pair(a, b, shape) {
            Some((Numbers::Ints(x), Numbers::Ints(y))) => {
                Some(Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| f(x, y)).collect()))
            }
            _ => None,
        })
    })
}

/// `Equal`, `Greater`, `GreaterOrEqual`, `Less`, `LessOrEqual`.
pub(super) fn compare(call: &Call) -> Facts {
    fn holds<T: PartialOrd>(op: &str, x: T, y: T) -> i64 {
        i64::from(match op {
            "Equal" => x == y,
            "Greater" => x > y,
            "GreaterOrEqual" => x >= y,
            "Less" => x < y,
            _ => x <= y,
        })
    }
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.need_same_type(&[a, b])?;
    let op = call.node.op.as_str();
    zip(call, a, b, DType::Bool, |shape| {
        Ok(pair(a, b, shape).and_then(|p| match p {
            (Numbers::Ints(x), Numbers::Ints(y)) => {
                Some(Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| holds(op, x, y)).collect()))
            }
            (Numbers::Floats(x), Numbers::Floats(y)) => {
                Some(Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| holds(op, x, y)).collect()))
            }
            _ => None,
        }))
    })
}

/// `Min`, `Max`, `Sum`, `Mean` of any number of inputs.
pub(super) fn variadic(call: &Call) -> Facts {
    let inputs = call.all()?;
    call.need_same_type(&inputs)?;
    let shape = common_shape(call, &inputs)?;
    let dtype = inputs.first().map_or(DType::F32, |x| x.dtype);
    let op = call.node.op.as_str();
    if dtype == DType::Bool || (matches!(op, "Sum" | "Mean") && !dtype.is_float()) {
        return Err(call.invalid(format!("inputs of {dtype} are not allowed")));
    }
    let mut all = Vec::with_capacity(inputs.len());
    for x in inputs {
        match (is_small(&shape), Numbers::of(x)) {
            (true, Some(v)) => all.push((v, &x.shape)),
            _ => return Ok(vec![Concrete::unknown(dtype, shape)]),
        }
    }
    let n = all.len() as f64;
    let mut folded: Option<Numbers> = None;
    for (v, from) in all {
        folded = Some(match (folded, v) {
            (Some(Numbers::Ints(a)), Numbers::Ints(b)) => {
                let f = if op == "Min" { i64::min } else { i64::max };
                let b = spread(b, from, &shape);
                Numbers::Ints(a.into_iter().zip(b).map(|(a, b)| f(a, b)).collect())
            }
            (Some(Numbers::Floats(a)), Numbers::Floats(b)) => {
                let b = spread(b, from, &shape);
                let f = |(a, b): (f64, f64)| match op {
                    "Sum" | "Mean" => a + b,
                    // A NaN stays.
                    _ if a.is_nan() || b.is_nan() => f64::NAN,
                    "Min" => a.min(b),
                    _ => a.max(b),
                };
                Numbers::Floats(a.into_iter().zip(b).map(f).collect())
            }
            (_, Numbers::Ints(b)) => Numbers::Ints(spread(b, from, &shape)),
            (_, Numbers::Floats(b)) => Numbers::Floats(spread(b, from, &shape)),
        });
    }
    if let (Some(Numbers::Floats(v)), "Mean") = (&mut folded, op) {
        v.iter_mut().for_each(|v| *v /= n);
    }
    Ok(vec![match folded {
        Some(v) => v.tensor(dtype, &shape)?.into(),
        None => Concrete::unknown(dtype, shape),
    }])
}

/// `PRelu`: the slope broadcasts to the input.
pub(super) fn prelu(call: &Call) -> Facts {
    let (x, slope) = (call.input(0)?, call.input(1)?);
    call.need_same_type(&[x, slope])?;
    super::broadcast::need_within(call, "the slope", slope, &x.shape)?;
    Ok(vec![Concrete::unknown(x.dtype, x.shape.clone())])
}

/// The elements of both inputs, spread to `shape`.
fn pair(a: &Concrete, b: &Concrete, shape: &[usize]) -> Option<(Numbers, Numbers)> {
    let one = |x: &Concrete| {
        Some(match Numbers::of(x)? {
            Numbers::Ints(v) => Numbers::Ints(spread(v, &x.shape, shape)),
            Numbers::Floats(v) => Numbers::Floats(spread(v, &x.shape, shape)),
        })
    };
    Some((one(a)?, one(b)?))
}

/// The output of type `dtype`; `compute` gives the elements if the inputs are known.
fn zip(
    call: &Call,
    a: &Concrete,
    b: &Concrete,
    dtype: DType,
    compute: impl FnOnce(&[usize]) -> Result<Option<Numbers>, GraphError>,
) -> Facts {
    let shape = common_shape(call, &[a, b])?;
    let known = a.value.is_some() && b.value.is_some() && is_small(&shape);
    let elements = if known { compute(&shape)? } else { None };
    Ok(vec![match elements {
        Some(v) => v.tensor(dtype, &shape)?.into(),
        None => Concrete::unknown(dtype, shape),
    }])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::tensor::Tensor;

    fn i64s(op: &str, a: &[i64], b: &[i64]) -> Vec<i64> {
        value(op, attrs(), &[ints(a), ints(b)]).to_i64().unwrap()
    }

    #[test]
    fn integers_follow_the_standard() {
        assert_eq!(i64s("Div", &[7, -7, i64::MIN], &[2, 2, -1]), [3, -3, i64::MIN]);
        assert_eq!(i64s("Mod", &[7, -7, 7, -7], &[3, 3, -3, -3]), [1, 2, -2, -1]);
        assert_eq!(i64s("Pow", &[2, 3, 2], &[10, 0, -1]), [1024, 1, 0]);
        assert_eq!(i64s("Add", &[i64::MAX], &[1]), [i64::MIN]);
        let fmod = attrs().with("fmod", 1);
        assert_eq!(value("Mod", fmod, &[ints(&[-7]), ints(&[3])]), Tensor::vector(&[-1i64]));
        assert_eq!(i64s("Greater", &[1, 2], &[1]), [0, 1]);
    }

    #[test]
    fn floats_round_once() {
        let v = value("Div", attrs(), &[floats(&[1.0, 2.0]), float(3.0)]);
        assert_eq!(v, Tensor::vector(&[1f32 / 3.0, 2f32 / 3.0]));
        let v = value("Pow", attrs(), &[floats(&[9.0]), int(2)]);
        assert_eq!(v, Tensor::vector(&[81f32]));
        let v = value("Max", attrs(), &[floats(&[9.0, 1.0]), float(2.0), float(f32::NAN)]);
        assert!(v.to_f32().iter().all(|v| v.is_nan()));
        let v = value("Mean", attrs(), &[floats(&[9.0, 1.0]), float(2.0)]);
        assert_eq!(v, Tensor::vector(&[5.5f32, 1.5]));
    }

    #[test]
    fn a_causal_mask_becomes_known() {
        let rows = grid(&[3, 1], &[0, 1, 2]);
        let v = value("LessOrEqual", attrs(), &[ints(&[0, 1, 2]), rows]);
        assert_eq!(v.shape(), [3, 3]);
        assert_eq!(v.to_i64().unwrap(), [1, 0, 0, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn unknown_or_large_values_stay_unknown() {
        let y = run("Add", attrs(), &[unknown(&[2, 1]), float(1.0)]).unwrap().remove(0);
        assert_eq!(y.shape, [2, 1]);
        assert!(y.value.is_none());
        let (a, b) = (Tensor::zeros(DType::F32, &[1024, 1]), Tensor::zeros(DType::F32, &[1024]));
        let y = run("Mul", attrs(), &[a.into(), b.into()]).unwrap().remove(0);
        assert_eq!(y.shape, [1024, 1024]);
        assert!(y.value.is_none());
    }

    #[test]
    fn wrong_inputs_are_refused() {
        assert!(refused("Add", attrs(), &[unknown(&[2]), unknown(&[3])]));
        assert!(refused("Add", attrs(), &[unknown(&[2]), ids(&[2])]));
        assert!(refused("Div", attrs(), &[ints(&[1]), ints(&[0])]));
        assert!(refused("Mod", attrs(), &[ints(&[1]), ints(&[0])]));
        assert!(refused("Mod", attrs(), &[float(1.0), float(2.0)]));
        assert!(refused("And", attrs(), &[ids(&[2]), ids(&[2])]));
        assert!(refused("Mul", attrs(), &[bools(&[true]), bools(&[true])]));
        assert!(refused("Max", attrs(), &[]));
        assert!(refused("Sum", attrs(), &[ids(&[2])]));
        assert!(refused("PRelu", attrs(), &[unknown(&[2]), unknown(&[2, 2])]));
    }
}
