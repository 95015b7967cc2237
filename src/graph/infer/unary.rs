//! One input, one output of the same shape.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::values::Numbers;
use crate::tensor::DType;

/// Functions of floating point values.
pub(super) fn floating(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_float(x)?;
    let f: Option<fn(f64) -> f64> = match call.node.op.as_str() {
        "Sqrt" => Some(f64::sqrt),
        "Reciprocal" => Some(f64::recip),
        "Exp" => Some(f64::exp),
        "Log" => Some(f64::ln),
        "Sin" => Some(f64::sin),
        "Cos" => Some(f64::cos),
        "Tanh" => Some(f64::tanh),
        "Sigmoid" => Some(|v| 1.0 / (1.0 + (-v).exp())),
        "Floor" => Some(f64::floor),
        "Ceil" => Some(f64::ceil),
        "Round" => Some(f64::round_ties_even),
        // The others never build masks or positions: their elements are not computed.
        _ => None,
    };
    Ok(vec![match (Numbers::of(x), f) {
        (Some(Numbers::Floats(v)), Some(f)) => {
            let v = Numbers::Floats(v.into_iter().map(f).collect());
            v.tensor(x.dtype, &x.shape)?.into()
        }
        _ => like(x, x.shape.clone()),
    }])
}

/// `Neg`, `Abs`, `Sign`, `Relu`: of integers too.
pub(super) fn numeric(call: &Call) -> Facts {
    let x = call.input(0)?;
    if x.dtype == DType::Bool {
        return Err(call.invalid("a numeric input is needed, not bool"));
    }
    let op = call.node.op.as_str();
    let int = |v: i64| match op {
        "Neg" => v.wrapping_neg(),
        "Abs" => v.wrapping_abs(),
        "Sign" => v.signum(),
        _ => v.max(0),
    };
    let float = |v: f64| match op {
        "Neg" => -v,
        "Abs" => v.abs(),
        "Sign" if v == 0.0 => 0.0,
        "Sign" => v.signum(),
        _ if v < 0.0 => 0.0,
        _ => v,
    };
    let y = match Numbers::of(x) {
        None => return Ok(vec![like(x, x.shape.clone())]),
        Some(Numbers::Ints(v)) => Numbers::Ints(v.into_iter().map(int).collect()),
        Some(Numbers::Floats(v)) => Numbers::Floats(v.into_iter().map(float).collect()),
    };
    Ok(vec![y.tensor(x.dtype, &x.shape)?.into()])
}

/// `Not`.
pub(super) fn not(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_type(x, DType::Bool)?;
    Ok(vec![match Numbers::of(x) {
        Some(Numbers::Ints(v)) => {
            let v = v.into_iter().map(|v| i64::from(v == 0)).collect();
            Numbers::Ints(v).tensor(DType::Bool, &x.shape)?.into()
        }
        _ => like(x, x.shape.clone()),
    }])
}

/// `IsNaN` and `IsInf`.
pub(super) fn classify(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_float(x)?;
    let nan = call.node.op == "IsNaN";
    let negative = call.flag("detect_negative", true)?;
    let positive = call.flag("detect_positive", true)?;
    let test = |v: f64| match nan {
        true => v.is_nan(),
        false => v == f64::INFINITY && positive || v == f64::NEG_INFINITY && negative,
    };
    Ok(vec![match Numbers::of(x) {
        Some(Numbers::Floats(v)) => {
            let v = v.into_iter().map(|v| i64::from(test(v))).collect();
            Numbers::Ints(v).tensor(DType::Bool, &x.shape)?.into()
        }
        _ => Concrete::unknown(DType::Bool, x.shape.clone()),
    }])
}

/// `Identity`: shares the elements, however many.
pub(super) fn identity(call: &Call) -> Facts {
    Ok(vec![call.input(0)?.clone()])
}

/// `Dropout`: the identity outside of training, and its mask.
pub(super) fn dropout(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_float(x)?;
    // Only a training flag that is a known false keeps the elements.
    let training = match call.optional(2) {
        None => false,
        Some(t) => !matches!(Numbers::of(t), Some(Numbers::Ints(v)) if v == [0]),
    };
    let y = if training { like(x, x.shape.clone()) } else { x.clone() };
    Ok(vec![y, Concrete::unknown(DType::Bool, x.shape.clone())])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::tensor::Tensor;

    #[test]
    fn elements_are_computed() {
        assert_eq!(value("Neg", attrs(), &[ints(&[1, -2])]), Tensor::vector(&[-1i64, 2]));
        assert_eq!(value("Relu", attrs(), &[floats(&[1.0, -2.0])]), Tensor::vector(&[1f32, 0.0]));
        assert_eq!(value("Sqrt", attrs(), &[float(16.0)]), Tensor::scalar(4f32));
        assert_eq!(value("Round", attrs(), &[floats(&[0.5, 1.5])]), Tensor::vector(&[0f32, 2.0]));
        let neg = value("Abs", attrs(), &[int(i64::MIN)]);
        assert_eq!(neg, Tensor::scalar(i64::MIN));
        let not = value("Not", attrs(), &[bools(&[true, false])]);
        assert_eq!(not, Tensor::bools(&[2], &[false, true]).unwrap());
    }

    #[test]
    fn infinities_are_told_apart() {
        let x = floats(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let is = |op, attrs| value(op, attrs, std::slice::from_ref(&x)).to_i64().unwrap();
        assert_eq!(is("IsNaN", attrs()), [1, 0, 0]);
        assert_eq!(is("IsInf", attrs()), [0, 1, 1]);
        assert_eq!(is("IsInf", attrs().with("detect_negative", 0)), [0, 1, 0]);
    }

    #[test]
    fn shape_and_type_stay() {
        for op in ["Erf", "Gelu", "Softplus", "HardSwish"] {
            let y = run(op, attrs(), &[unknown(&[2, 3])]).unwrap().remove(0);
            assert_eq!((y.dtype, y.shape), (DType::F32, vec![2, 3]));
        }
        let y = run_n("Dropout", attrs(), &[unknown(&[2, 3])], 2).unwrap();
        assert_eq!(y[1].dtype, DType::Bool);
        let big = Concrete::from(Tensor::zeros(DType::I8, &[1 << 20]));
        assert!(run("Identity", attrs(), &[big]).unwrap()[0].value.is_some());
    }

    #[test]
    fn wrong_types_are_refused() {
        assert!(refused("Sqrt", attrs(), &[ids(&[2])]));
        assert!(refused("Not", attrs(), &[ids(&[2])]));
        assert!(refused("Neg", attrs(), &[bools(&[true])]));
        assert!(refused("IsNaN", attrs(), &[ids(&[2])]));
    }
}
