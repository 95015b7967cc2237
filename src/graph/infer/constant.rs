//! Values from nothing but shapes and attributes.

use super::Concrete;
use super::call::{Call, Facts, elements};
use super::values::{LIMIT, Numbers, is_small};
use crate::graph::Attr;
use crate::tensor::{DType, Tensor};

/// `Constant`.
pub(super) fn constant(call: &Call) -> Facts {
    let attrs = &call.node.attrs;
    let value = match (
        attrs.get("value"),
        attrs.get("value_int").or(attrs.get("value_ints")),
        attrs.get("value_float").or(attrs.get("value_floats")),
    ) {
        (Some(Attr::Tensor(t)), None, None) => t.clone(),
        (None, Some(Attr::Int(v)), None) => Tensor::scalar(*v),
        (None, Some(Attr::Ints(v)), None) => Tensor::vector(v),
        (None, None, Some(Attr::Float(v))) => Tensor::scalar(*v),
        (None, None, Some(Attr::Floats(v))) => Tensor::vector(v),
        (None, None, None) if !attrs.0.is_empty() => {
            return Err(call.node.unsupported("a string or sparse value"));
        }
        _ => return Err(call.invalid("exactly one value is needed")),
    };
    Ok(vec![value.into()])
}

/// `ConstantOfShape`: zeros of f32 unless the attribute `value` says otherwise.
pub(super) fn constant_of_shape(call: &Call) -> Facts {
    let shape = call.need_sizes(0, "a shape")?;
    let fill = match call.node.attrs.get("value") {
        None => Tensor::scalar(0f32),
        Some(Attr::Tensor(t)) if t.len() == 1 => t.clone(),
        Some(_) => return Err(call.invalid("`value` must be a tensor with one element")),
    };
    if !is_small(&shape) {
        return Ok(vec![Concrete::unknown(fill.dtype(), shape)]);
    }
    let n = shape.iter().product();
    Ok(vec![Tensor::from_bytes(fill.dtype(), &shape, &fill.bytes().repeat(n))?.into()])
}

/// `Shape`, of the dimensions from `start` to `end`.
pub(super) fn shape(call: &Call) -> Facts {
    let x = call.input(0)?;
    let rank = x.shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(call.int_or("start", 0)?), clamp(call.int_or("end", rank)?));
    let dims: Vec<i64> =
        x.shape.get(start..end).unwrap_or_default().iter().map(|&d| d as i64).collect();
    Ok(vec![Tensor::vector(&dims).into()])
}

/// `Size`.
pub(super) fn size(call: &Call) -> Facts {
    let n = elements(call.input(0)?.shape.iter().copied()).unwrap_or(usize::MAX);
    Ok(vec![Tensor::scalar(n as i64).into()])
}

/// `Range`.
pub(super) fn range(call: &Call) -> Facts {
    let inputs = call.all()?;
    call.need_same_type(&inputs)?;
    let mut ends = Vec::new();
    for x in &inputs {
        if x.shape.iter().any(|&d| d != 1) {
            return Err(call.invalid(format!("a scalar is needed, not shape {:?}", x.shape)));
        }
        match Numbers::of(x) {
            Some(v) => ends.push(v),
            None => return Err(call.node.unsupported("a length that depends on data")),
        }
    }
    let none = || call.invalid("three numbers are needed");
    let [start, limit, delta] = <[Numbers; 3]>::try_from(ends).map_err(|_| none())?;
    let dtype = inputs.first().map_or(DType::I64, |x| x.dtype);
    let zero = || call.invalid("a step of zero");
    let (n, values): (usize, Numbers) = match (start, limit, delta) {
        (Numbers::Ints(a), Numbers::Ints(b), Numbers::Ints(d)) => {
            let (&[a], &[b], &[d]) = (&a[..], &b[..], &d[..]) else { return Err(none()) };
            let (wide, step) = (i128::from(b) - i128::from(a), i128::from(d));
            if step == 0 {
                return Err(zero());
            }
            // Rounded up; not positive where the step leads away from the limit.
            let n = wide / step + i128::from(wide % step != 0 && (wide < 0) == (step < 0));
            let n = n.max(0);
            let n = usize::try_from(n).map_err(|_| call.invalid("the range is too long"))?;
            let few = n.min(LIMIT) as i64;
            (n, Numbers::Ints((0..few).map(|i| a.wrapping_add(i.wrapping_mul(d))).collect()))
        }
        (Numbers::Floats(a), Numbers::Floats(b), Numbers::Floats(d)) => {
            let (&[a], &[b], &[d]) = (&a[..], &b[..], &d[..]) else { return Err(none()) };
            if d == 0.0 {
                return Err(zero());
            }
            let n = ((b - a) / d).ceil();
            if n.is_nan() || n >= (1u64 << 48) as f64 {
                return Err(call.invalid("the range has no end"));
            }
            let n = n.max(0.0);
            let few = n.min(LIMIT as f64) as usize;
            (n as usize, Numbers::Floats((0..few).map(|i| a + i as f64 * d).collect()))
        }
        _ => return Err(none()),
    };
    if n > LIMIT {
        return Ok(vec![Concrete::unknown(dtype, [n])]);
    }
    Ok(vec![values.tensor(dtype, &[n])?.into()])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn constants_of_every_kind() {
        let v = |attrs| value("Constant", attrs, &[]);
        assert_eq!(v(attrs().with("value_int", 3)), Tensor::scalar(3i64));
        assert_eq!(v(attrs().with("value_ints", &[3, 4][..])), Tensor::vector(&[3i64, 4]));
        assert_eq!(v(attrs().with("value_float", 0.5)), Tensor::scalar(0.5f32));
        let floats = attrs().with("value_floats", Attr::Floats(vec![0.5]));
        assert_eq!(v(floats), Tensor::vector(&[0.5f32]));
        assert_eq!(v(attrs().with("value", Tensor::scalar(1i8))), Tensor::scalar(1i8));
        assert!(refused("Constant", attrs(), &[]));
        assert!(refused("Constant", attrs().with("value", 1), &[]));
        assert!(refused("Constant", attrs().with("value_int", 1).with("value_float", 1.0), &[]));
        let e = run("Constant", attrs().with("value_string", "x"), &[]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn filled_shapes() {
        let v = value("ConstantOfShape", attrs(), &[ints(&[2, 2])]);
        assert_eq!(v, Tensor::new(&[2, 2], &[0f32; 4]).unwrap());
        let one = attrs().with("value", Tensor::bools(&[1], &[true]).unwrap());
        // The shape [] has one element.
        let v = value("ConstantOfShape", one, &[ints(&[])]);
        assert_eq!(v, Tensor::bools(&[], &[true]).unwrap());
        let large = run("ConstantOfShape", attrs(), &[ints(&[1 << 12, 1 << 12])]).unwrap();
        assert!(large[0].value.is_none());
        assert!(refused("ConstantOfShape", attrs(), &[ints(&[-1])]));
        assert!(refused("ConstantOfShape", attrs(), &[ints(&[i64::MAX, i64::MAX])]));
        assert!(refused("ConstantOfShape", attrs().with("value", 1), &[ints(&[1])]));
        let e = run("ConstantOfShape", attrs(), &[ids(&[2])]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn shapes_are_known() {
        let x = unknown(&[2, 3, 4]);
        let dims = |attrs| value("Shape", attrs, std::slice::from_ref(&x)).to_i64().unwrap();
        assert_eq!(dims(attrs()), [2, 3, 4]);
        assert_eq!(dims(attrs().with("start", -1)), [4]);
        assert_eq!(dims(attrs().with("start", 1).with("end", -1)), [3]);
        assert_eq!(dims(attrs().with("start", 2).with("end", 1)), [0i64; 0]);
        assert_eq!(dims(attrs().with("start", i64::MIN).with("end", i64::MAX)), [2, 3, 4]);
        assert_eq!(value("Size", attrs(), std::slice::from_ref(&x)), Tensor::scalar(24i64));
    }

    #[test]
    fn ranges_round_up() {
        let range = |a, b, d| value("Range", attrs(), &[int(a), int(b), int(d)]).to_i64().unwrap();
        assert_eq!(range(0, 5, 2), [0, 2, 4]);
        assert_eq!(range(5, 0, -2), [5, 3, 1]);
        assert_eq!(range(5, 0, 1), [0i64; 0]);
        assert_eq!(range(0, 5, -2), [0i64; 0]);
        assert_eq!(range(0, 4, 2), [0, 2]);
        let v = value("Range", attrs(), &[float(0.0), float(1.0), float(0.4)]);
        assert_eq!(v.shape(), [3]);
        assert!(refused("Range", attrs(), &[int(0), int(1), int(0)]));
        assert!(refused("Range", attrs(), &[int(0), float(1.0), int(1)]));
        assert!(refused("Range", attrs(), &[int(i64::MIN), int(i64::MAX), int(1)]));
        assert!(refused("Range", attrs(), &[float(0.0), float(f32::NAN), float(1.0)]));
        assert!(refused("Range", attrs(), &[float(0.0), float(1e30), float(1.0)]));
        assert!(refused("Range", attrs(), &[ints(&[1, 2]), int(1), int(1)]));
    }
}
