use super::token_rows::slice;
use super::{Context, cache};
use crate::backbone::Pooling;
use crate::graph::sites::Modality;
use crate::graph::{Attrs, Graph, GraphError, ValueId};
use crate::tensor::DType;

/// What maps the feature to class scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Classifier {
    /// `x W^T + b` with `head.weight [K, d]` and `head.bias [K]`.
    Linear,
    /// Hidden layers `norm(relu(W x + b))` with `head.hidden.{j}.weight [d, d]`, `.bias`,
    /// `.norm.weight` and `.norm.bias`, all `[d]`, below a linear classifier.
    Mlp {
        /// Number of hidden layers.
        hidden: usize,
    },
    /// `scale cos(x, mu_k)` with the class means `prototypes.mean [K, d]`.
    Prototypes {
        /// The inverse temperature.
        scale: f32,
    },
    /// `scale cos(x, w_k)` with class vectors `cache.classes [K, d]`, and the votes of the keys
    /// `cache.keys [N, d]` for their classes `cache.labels [N]`.
    Cache {
        /// The inverse temperature of the class vectors.
        scale: f32,
    },
}

/// Adds pooling and classifier: (feature `[B, d]`, logits `[B, K]`).
pub(super) fn insert(
    context: &mut Context<'_>,
    pooling: Pooling,
    classifier: &Classifier,
) -> Result<(ValueId, ValueId), GraphError> {
    let mut feature = match context.feature {
        Some(feature) => feature,
        None => pool(context, pooling)?,
    };
    if let Classifier::Mlp { hidden } = classifier {
        for j in 0..*hidden {
            feature = hidden_layer(context, feature, j)?;
        }
    }
    let swap = || Attrs::none().with("perm", [1i64, 0].as_slice());
    let logits = match classifier {
        Classifier::Linear | Classifier::Mlp { .. } => {
            let (weight, bias) = (context.tensor("head.weight")?, context.tensor("head.bias")?);
            let g = &mut *context.graph;
            let weight = g.op("Transpose", &[weight], swap())?;
            let scores = g.op("MatMul", &[feature, weight], Attrs::none())?;
            g.op("Add", &[scores, bias], Attrs::none())?
        }
        Classifier::Prototypes { scale } => {
            let means = context.tensor("prototypes.mean")?;
            let g = &mut *context.graph;
            let means = unit_rows(g, means)?;
            let means = g.op("Transpose", &[means], swap())?;
            let feature = unit_rows(g, feature)?;
            let scores = g.op("MatMul", &[feature, means], Attrs::none())?;
            let scale = g.float(*scale);
            g.op("Mul", &[scores, scale], Attrs::none())?
        }
        Classifier::Cache { scale } => cache::classify(context, feature, *scale)?,
    };
    Ok((feature, logits))
}

/// Layer normalisation where the paper has batch normalisation, which needs batches on the device.
fn hidden_layer(context: &mut Context<'_>, x: ValueId, j: usize) -> Result<ValueId, GraphError> {
    let tensor = |part: &str| context.tensor(&format!("head.hidden.{j}.{part}"));
    let (weight, bias) = (tensor("weight")?, tensor("bias")?);
    let (gain, shift) = (tensor("norm.weight")?, tensor("norm.bias")?);
    let g = &mut *context.graph;
    let swap = Attrs::none().with("perm", [1i64, 0].as_slice());
    let weight = g.op("Transpose", &[weight], swap)?;
    let h = g.op("MatMul", &[x, weight], Attrs::none())?;
    let h = g.op("Add", &[h, bias], Attrs::none())?;
    let h = g.op("Relu", &[h], Attrs::none())?;
    let attrs = Attrs::none().with("axis", -1i64).with("epsilon", 1e-5f32);
    g.op("LayerNormalization", &[h, gain, shift], attrs)
}

/// Every row divided by its Euclidean length.
pub(super) fn unit_rows(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let squares = g.op("Mul", &[x, x], Attrs::none())?;
    let axis = g.ints(&[-1]);
    let sum = g.op("ReduceSum", &[squares, axis], Attrs::none().with("keepdims", 1i64))?;
    // Keeps a row of zeros, an empty class, finite.
    let tiny = g.float(1e-12);
    let sum = g.op("Add", &[sum, tiny], Attrs::none())?;
    let length = g.op("Sqrt", &[sum], Attrs::none())?;
    g.op("Div", &[x, length], Attrs::none())
}

/// The pooled feature `[B, d]` of the last hidden state.
pub(super) fn pool(context: &mut Context<'_>, pooling: Pooling) -> Result<ValueId, GraphError> {
    let sites = &context.backbone.sites;
    if pooling == Pooling::Output {
        let pooled = sites.pooled.as_ref();
        return context
            .site(pooled.ok_or_else(|| GraphError::Undefined("the pooled output".into()))?);
    }
    let hidden = context.site(&sites.hidden)?;
    let map = sites.cnn.is_some();
    let front = context.front_rows;
    let g = &mut *context.graph;
    if pooling == Pooling::Cls {
        let row = g.add_constant("row", crate::tensor::Tensor::scalar(front as i64));
        return g.op("Gather", &[hidden, row], Attrs::none().with("axis", 1i64));
    }
    if map {
        let places = g.ints(&[2, 3]);
        return g.op("ReduceMean", &[hidden, places], Attrs::none().with("keepdims", 0i64));
    }
    let hidden = if front > 0 { slice(g, hidden, front, None)? } else { hidden };
    let sites = &context.backbone.sites;
    let mask = match (&sites.mask, sites.modality) {
        (Some(mask), Modality::Text) => crate::backbone::site(g, mask)?,
        _ => {
            let axis = g.ints(&[1]);
            let flat = Attrs::none().with("keepdims", 0i64);
            return g.op("ReduceMean", &[hidden, axis], flat);
        }
    };
    let weight = match g.value(mask).dtype {
        DType::F32 => mask,
        _ => g.op("Cast", &[mask], Attrs::none().with("to", 1i64))?,
    };
    let axis = g.ints(&[1]);
    let count = g.op("ReduceSum", &[weight, axis], Attrs::none().with("keepdims", 1i64))?;
    // Rows that only fill up a batch have no token at all.
    let one = g.float(1.0);
    let count = g.op("Max", &[count, one], Attrs::none())?;
    let weight = g.op("Div", &[weight, count], Attrs::none())?;
    let weight = g.op("Unsqueeze", &[weight, axis], Attrs::none())?;
    let mean = g.op("MatMul", &[weight, hidden], Attrs::none())?;
    g.op("Squeeze", &[mean, axis], Attrs::none())
}
