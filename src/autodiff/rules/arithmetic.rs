//! Elementwise arithmetic, with broadcasting.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError};
use crate::tensor::DType;

type Done = Result<(), GraphError>;

pub fn sum(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    for i in 0..s.node.inputs.len() {
        s.give_summed(i, dy)?;
    }
    Ok(())
}

pub fn sub(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    s.give_summed(0, dy)?;
    if s.wants(1) {
        // Summed before the sign: the smaller tensor is negated.
        let db = s.sum_to(dy, s.x(1)?)?;
        let db = s.neg(db)?;
        s.give(1, db);
    }
    Ok(())
}

pub fn mul(s: &mut Step<'_>) -> Done {
    let (a, b, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    for (i, other) in [(0, b), (1, a)] {
        if s.wants(i) {
            let d = s.mul(dy, other)?;
            s.give_summed(i, d)?;
        }
    }
    Ok(())
}

pub fn div(s: &mut Step<'_>) -> Done {
    let (b, y, dy) = (s.x(1)?, s.y()?, s.dy()?);
    let da = s.div(dy, b)?;
    s.give_summed(0, da)?;
    if s.wants(1) {
        // d(a/b)/db = -y/b
        let db = s.mul(da, y)?;
        let db = s.sum_to(db, b)?;
        let db = s.neg(db)?;
        s.give(1, db);
    }
    Ok(())
}

pub fn neg(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    let dx = s.neg(dy)?;
    s.give(0, dx);
    Ok(())
}

pub fn abs(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let sign = s.op("Sign", &[x])?;
    let dx = s.mul(dy, sign)?;
    s.give(0, dx);
    Ok(())
}

pub fn pow(s: &mut Step<'_>) -> Done {
    s.refuse(1, "a trained exponent")?;
    let (x, exponent, dy) = (s.x(0)?, s.x(1)?, s.dy()?);
    let slope = match s.graph.scalar(exponent) {
        Some(2.0) => s.scale(x, 2.0)?,
        Some(n) => {
            let less = s.float(x, n - 1.0)?;
            let power = s.op("Pow", &[x, less])?;
            s.scale(power, n)?
        }
        None => {
            let to = onnx_type(s.graph.value(x).dtype)
                .ok_or_else(|| s.node.unsupported("a gradient of integers"))?;
            let n = s.op_with("Cast", &[exponent], Attrs::none().with("to", to))?;
            let one = s.float(x, 1.0)?;
            let less = s.sub(n, one)?;
            let power = s.op("Pow", &[x, less])?;
            s.mul(power, n)?
        }
    };
    let dx = s.mul(dy, slope)?;
    s.give_summed(0, dx)
}

pub fn sqrt(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let half = s.scale(dy, 0.5)?;
    let dx = s.div(half, y)?;
    s.give(0, dx);
    Ok(())
}

pub fn reciprocal(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let square = s.mul(y, y)?;
    let slope = s.neg(square)?;
    let dx = s.mul(dy, slope)?;
    s.give(0, dx);
    Ok(())
}

pub fn exp(s: &mut Step<'_>) -> Done {
    let (y, dy) = (s.y()?, s.dy()?);
    let dx = s.mul(dy, y)?;
    s.give(0, dx);
    Ok(())
}

pub fn log(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let dx = s.div(dy, x)?;
    s.give(0, dx);
    Ok(())
}

pub fn sin(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let slope = s.op("Cos", &[x])?;
    let dx = s.mul(dy, slope)?;
    s.give(0, dx);
    Ok(())
}

pub fn cos(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let sin = s.op("Sin", &[x])?;
    let slope = s.neg(sin)?;
    let dx = s.mul(dy, slope)?;
    s.give(0, dx);
    Ok(())
}

/// `Min` and `Max`: the first input that equals the output takes the gradient.
pub fn extremum(s: &mut Step<'_>) -> Done {
    let y = s.y()?;
    let mut rest = s.dy()?;
    let zero = s.float(rest, 0.0)?;
    let last = s.node.inputs.len().saturating_sub(1);
    for i in 0..last {
        let chosen = s.op("Equal", &[s.x(i)?, y])?;
        if s.wants(i) {
            let dx = s.op("Where", &[chosen, rest, zero])?;
            s.give_summed(i, dx)?;
        }
        if (i + 1..=last).any(|j| s.wants(j)) {
            rest = s.op("Where", &[chosen, zero, rest])?;
        }
    }
    s.give_summed(last, rest)
}

pub fn clip(s: &mut Step<'_>) -> Done {
    s.refuse(1, "a trained bound")?;
    s.refuse(2, "a trained bound")?;
    let (x, y, dy) = (s.x(0)?, s.y()?, s.dy()?);
    // Inside the bounds nothing was changed.
    let inside = s.op("Equal", &[x, y])?;
    let zero = s.float(dy, 0.0)?;
    let dx = s.op("Where", &[inside, dy, zero])?;
    s.give(0, dx);
    Ok(())
}

pub fn select(s: &mut Step<'_>) -> Done {
    let (condition, dy) = (s.x(0)?, s.dy()?);
    let zero = s.float(dy, 0.0)?;
    for (i, branches) in [(1, [condition, dy, zero]), (2, [condition, zero, dy])] {
        if s.wants(i) {
            let d = s.op("Where", &branches)?;
            s.give_summed(i, d)?;
        }
    }
    Ok(())
}

pub fn cast(s: &mut Step<'_>) -> Done {
    let (x, dy) = (s.x(0)?, s.dy()?);
    let dtype = s.graph.value(x).dtype;
    if dtype == s.graph.value(dy).dtype {
        s.give(0, dy);
        return Ok(());
    }
    let to = onnx_type(dtype).ok_or_else(|| s.node.unsupported("a gradient of integers"))?;
    let dx = s.op_with("Cast", &[dy], Attrs::none().with("to", to))?;
    s.give(0, dx);
    Ok(())
}

pub fn identity(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    s.give(0, dy);
    Ok(())
}

/// The ONNX number of a floating point type.
pub(super) fn onnx_type(dtype: DType) -> Option<i64> {
    match dtype {
        DType::F32 => Some(1),
        DType::F16 => Some(10),
        DType::F64 => Some(11),
        _ => None,
    }
}
