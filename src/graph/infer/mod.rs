//! Shapes, types and small values of every operator, at one concrete size.
//!
//! [`infer`] looks an operator up in [`rules`], which gives its arity and its rule. A rule reads its
//! inputs and attributes through [`call::Call`] and returns what it knows of every output. Values
//! are computed too while they are small, so that masks and positions that are built from shapes
//! alone become known; whatever depends on fed data has a shape only.

mod binary;
mod broadcast;
mod call;
mod constant;
mod conv;
mod fused;

mod gather;
mod layout;
mod matmul;
mod movement;
mod normalize;
mod pieces;
mod pool;
mod quantize;
mod reduce;
mod rules;
mod scatter;
mod search;
mod select;
#[cfg(test)]
mod testing;
mod unary;
mod values;

use super::onnx::{MAX_RANK, MAX_VALUE_BYTES};
use super::{GraphError, Node};
use crate::tensor::{DType, Tensor};
use call::{Call, elements};

/// What is known of a value at one probe point.
#[derive(Clone, Debug)]
pub struct Concrete {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, for constants and for small values that depend on shapes and constants alone.
    pub value: Option<Tensor>,
}

impl Concrete {
    /// A value of which only type and shape are known.
    pub fn unknown(dtype: DType, shape: impl Into<Vec<usize>>) -> Concrete {
        Concrete { dtype, shape: shape.into(), value: None }
    }
}

/// Rules move whole bytes: halves of them are never computed with.
pub(super) fn is_plain(value: &Tensor) -> bool {
    value.dtype() != DType::I4
}

impl From<Tensor> for Concrete {
    fn from(value: Tensor) -> Concrete {
        let (dtype, shape) = (value.dtype(), value.shape().to_vec());
        Concrete { dtype, shape, value: Some(value).filter(is_plain) }
    }
}

/// Infers the first `outputs` outputs of `node` from its inputs.
///
/// # Errors
/// [`GraphError::Unsupported`] for an unknown operator, or where a shape depends on data that is
/// not known; [`GraphError::Invalid`] where the inputs break the rules of the operator.
pub fn infer(
    node: &Node,
    inputs: &[Option<Concrete>],
    outputs: usize,
) -> Result<Vec<Concrete>, GraphError> {
    let rule = rules::find(&node.op).ok_or_else(|| node.unsupported(""))?;
    let call = Call { node, inputs, outputs };
    check_inputs(&call, rule.least, rule.most)?;
    let mut facts = (rule.apply)(&call)?;
    if facts.len() < outputs {
        return Err(call.invalid(format!("{outputs} outputs wanted, it has {}", facts.len())));
    }
    facts.truncate(outputs);
    for fact in &facts {
        check_size(&call, "output", fact)?;
    }
    Ok(facts)
}

fn check_inputs(call: &Call, least: usize, most: usize) -> Result<(), GraphError> {
    let given = call.inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
    if given < least || given > most {
        return Err(call.invalid(format!("{given} inputs, it takes {least} to {most}")));
    }
    for i in 0..least {
        call.input(i)?;
    }
    for input in call.inputs.iter().flatten() {
        check_size(call, "input", input)?;
        if let Some(t) = &input.value
            && (t.dtype() != input.dtype || t.shape() != input.shape)
        {
            return Err(call.invalid(format!("an input of shape {:?} holds {t:?}", input.shape)));
        }
    }
    Ok(())
}

/// Every product of some of the dimensions must fit, also next to a dimension of 0, so that the
/// rules can multiply dimensions of one value without checks, and so that no engine is asked for
/// memory that there is not.
fn check_size(call: &Call, what: &str, fact: &Concrete) -> Result<(), GraphError> {
    let bytes = elements(fact.shape.iter().map(|&d| d.max(1)))
        .and_then(|n| n.checked_mul(fact.dtype.size()))
        .filter(|&n| n <= MAX_VALUE_BYTES);
    if bytes.is_none() || fact.shape.len() > MAX_RANK {
        return Err(call.invalid(format!("an {what} of shape {:?} is too large", fact.shape)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::testing::{attrs, refused, run, unknown};
    use super::*;
    use crate::graph::{Attrs, Dim};

    #[test]
    fn an_unknown_operator_is_refused() {
        let e = run("Frobnicate", attrs(), &[]).unwrap_err();
        assert_eq!(e.code(), "graph.unsupported");
    }

    #[test]
    fn arity_is_checked() {
        let x = unknown(&[2]);
        assert!(refused("Add", attrs(), std::slice::from_ref(&x)));
        assert!(refused("Relu", attrs(), &[x.clone(), x.clone()]));
        let node = testing::node("Relu", attrs());
        assert!(infer(&node, &[Some(x.clone())], 2).is_err());
        assert!(infer(&node, &[None], 1).is_err());
        // A trailing input that is left out does not count.
        assert!(infer(&node, &[Some(x), None], 1).is_ok());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(refused("Relu", attrs(), &[unknown(&[usize::MAX, 2])]));
        assert!(refused("Relu", attrs(), &[unknown(&[0, usize::MAX, usize::MAX])]));
        assert!(refused("Relu", attrs(), &[unknown(&[1; MAX_RANK + 1])]));
        let big = unknown(&[1 << 40, 1]);
        let wide = unknown(&[1, 1 << 40]);
        assert!(refused("Add", attrs(), &[big, wide]));
    }

    #[test]
    fn a_value_must_match_its_shape() {
        let mut x = Concrete::from(Tensor::vector(&[1f32, 2.0]));
        x.shape = vec![3];
        assert!(refused("Relu", Attrs::none(), &[x]));
    }

    /// Legacy exports compute every reshape from `Shape`: one size that is not computed refuses
    /// the file.
    #[test]
    fn exports_are_inferred() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/exports");
        for (name, tokens) in [
            ("bert-legacy", Dim::SEQUENCE),
            ("bert-dynamo", Dim::SEQUENCE),
            ("roberta-legacy", Dim::SEQUENCE),
            ("vit-legacy", Dim::fixed(17)),
        ] {
            let path = std::path::Path::new(folder).join(name).join("model.onnx");
            let graph = crate::graph::onnx::read(&path).unwrap();
            assert_eq!(graph.shape(graph.outputs[0]), [Dim::BATCH, tokens, 32.into()], "{name}");
        }
    }
}
