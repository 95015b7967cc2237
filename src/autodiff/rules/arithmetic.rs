//! Elementwise arithmetic, with broadcasting.

use crate::autodiff::step::Step;
use crate::graph::{Attrs, GraphError, ValueId};
use crate::tensor::DType;

type Done = Result<(), GraphError>;

pub fn sum(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    for i in 0..s.node.inputs.len() {
        s.give_summed(i, dy)?;
    }
    Ok(())
}

pub fn mean(s: &mut Step<'_>) -> Done {
    let n = s.node.inputs.len();
    let dy = s.dy()?;
    let share = s.scale(dy, 1.0 / n as f32)?;
    for i in 0..n {
        s.give_summed(i, share)?;
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
    let (x, exponent, y, dy) = (s.x(0)?, s.x(1)?, s.y()?, s.dy()?);
    if s.wants(0) {
        let slope = match s.graph.scalar(exponent) {
            Some(2.0) => s.scale(x, 2.0)?,
            Some(n) => {
                let less = s.float(x, n - 1.0)?;
                let power = s.op("Pow", &[x, less])?;
                s.scale(power, n)?
            }
            None => {
                let n = cast_like(s, exponent, x)?;
                let one = s.float(x, 1.0)?;
                let less = s.sub(n, one)?;
                let power = s.op("Pow", &[x, less])?;
                s.mul(power, n)?
            }
        };
        let dx = s.mul(dy, slope)?;
        s.give_summed(0, dx)?;
    }
    if s.wants(1) {
        // y ln x, which is 0 at x = 0.
        let tiny = s.float(x, f32::MIN_POSITIVE)?;
        let positive = s.op("Max", &[x, tiny])?;
        let log = s.op("Log", &[positive])?;
        let slope = s.mul(y, log)?;
        let slope = cast_like(s, slope, exponent)?;
        let dy = cast_like(s, dy, exponent)?;
        let d = s.mul(dy, slope)?;
        s.give_summed(1, d)?;
    }
    Ok(())
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
    let dx = cast_like(s, dy, x)?;
    s.give(0, dx);
    Ok(())
}

/// `v` in the type of `like`.
pub(super) fn cast_like(
    s: &mut Step<'_>,
    v: ValueId,
    like: ValueId,
) -> Result<ValueId, GraphError> {
    let dtype = s.graph.value(like).dtype;
    if dtype == s.graph.value(v).dtype {
        return Ok(v);
    }
    // The ONNX numbers of the floating point types.
    let to = match dtype {
        DType::F32 => 1,
        DType::F16 => 10,
        DType::F64 => 11,
        _ => return Err(s.node.unsupported("a gradient of integers")),
    };
    s.op_with("Cast", &[v], Attrs::none().with("to", to))
}

pub fn identity(s: &mut Step<'_>) -> Done {
    let dy = s.dy()?;
    s.give(0, dy);
    Ok(())
}
