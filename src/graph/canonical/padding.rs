use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::sites::attention;
use crate::graph::{Attrs, Dim, Graph, GraphError, PROBES, ValueId};
use crate::tensor::{DType, Tensor};

/// What the attention masks of an export do with the padding mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskReport {
    /// There is no padding mask, or attention does not look at it.
    None,
    /// Padded keys are masked and others are not.
    Padding,
    /// The export masks every key whatever the input says: a known defect of the legacy exporter
    /// with recent transformers. The mask was built anew.
    Repaired,
    /// Something else, for instance a causal mask. Left as it is.
    Other,
}

/// Scores this low vanish in the softmax.
const MASKED: f32 = -1e4;

/// Replaces the nodes that compute attention masks from the padding mask by the plain form
/// `Where(mask, 0, lowest) [B, 1, 1, S]`, after making sure by evaluation that this is what they
/// compute (or, with [`MaskReport::Repaired`], what they should).
///
/// # Errors
/// [`GraphError`] if the graph cannot be evaluated.
pub fn padding_masks(graph: &mut Graph) -> Result<MaskReport, GraphError> {
    let index = graph.index();
    let attentions = attention::find(graph, &index);
    let uses: Vec<(usize, usize)> = attentions.iter().flat_map(|a| a.masks.clone()).collect();
    let Some(mask) = mask_input(graph, &uses)? else { return Ok(MaskReport::None) };
    let verdict = verdict(graph, mask, &uses)?;
    if matches!(verdict, MaskReport::Padding | MaskReport::Repaired) {
        let plain = plain(graph, mask)?;
        for (n, input) in uses {
            graph.nodes[n].inputs[input] = Some(plain);
        }
        graph.infer_all()?;
        graph.prune();
    }
    Ok(verdict)
}

/// The input `[B, S]` of whole numbers or booleans that reads no table: the padding mask.
fn mask_input(graph: &Graph, uses: &[(usize, usize)]) -> Result<Option<ValueId>, GraphError> {
    if uses.is_empty() || uses.iter().any(|&(n, _)| graph.nodes[n].op != "Add") {
        return Ok(None);
    }
    let index = graph.index();
    let ids = |v: &ValueId| {
        index.consumers(*v).iter().any(|&(n, i)| {
            let node = &graph.nodes[n];
            node.op == "Gather"
                && i == 1
                && node.input(0).is_ok_and(|t| graph.constant(t).is_some())
        })
    };
    let shape = [Dim::BATCH, Dim::SEQUENCE];
    let masks = graph.inputs.iter().copied().filter(|v| graph.shape(*v) == shape && !ids(v));
    Ok(masks.clone().next().filter(|_| masks.count() == 1))
}

/// Evaluates every mask for two padding patterns at all probe sizes.
fn verdict(
    graph: &Graph,
    mask: ValueId,
    uses: &[(usize, usize)],
) -> Result<MaskReport, GraphError> {
    let (mut padding, mut all_masked) = (true, true);
    for pattern in [[3usize, 1], [0, 2]] {
        let mut probe = graph.clone();
        let dtype = probe.value(mask).dtype;
        let patterns: Vec<Tensor> =
            (0..PROBES).map(|p| padded(dtype, p, pattern)).collect::<Result<_, _>>()?;
        let Ok(known) = <[Tensor; PROBES]>::try_from(patterns) else {
            return Ok(MaskReport::Other);
        };
        probe.value_mut(mask).known = Some(Arc::new(known.clone()));
        probe.infer_all()?;
        for &(n, input) in uses {
            let Some(value) = probe.value(probe.nodes[n].input(input)?).known.clone() else {
                return Ok(MaskReport::Other);
            };
            for (value, mask) in value.iter().zip(&known) {
                padding &= is_padding(value, mask);
                all_masked &= value.to_f32().iter().all(|&v| v <= MASKED);
            }
        }
    }
    Ok(match (padding, all_masked) {
        (true, _) => MaskReport::Padding,
        (_, true) => MaskReport::Repaired,
        _ => MaskReport::Other,
    })
}

/// A mask `[B, S]` whose row b ends in `padding[b % 2]` zeros.
fn padded(dtype: DType, probe: usize, padding: [usize; 2]) -> Result<Tensor, GraphError> {
    let (b, s) = (Dim::BATCH.0[probe], Dim::SEQUENCE.0[probe]);
    let on = |i: usize| i % s < s - padding[(i / s) % 2];
    let shape = [b, s];
    Ok(match dtype {
        DType::F32 => {
            Tensor::new(&shape, &(0..b * s).map(|i| f32::from(on(i))).collect::<Vec<_>>())?
        }
        DType::Bool => Tensor::bools(&shape, &(0..b * s).map(on).collect::<Vec<_>>())?,
        DType::I32 => {
            Tensor::new(&shape, &(0..b * s).map(|i| i32::from(on(i))).collect::<Vec<_>>())?
        }
        _ => Tensor::new(&shape, &(0..b * s).map(|i| i64::from(on(i))).collect::<Vec<_>>())?,
    })
}

/// True if `value`, broadcastable to `[B, 1, S, S]`, masks exactly the padded keys.
fn is_padding(value: &Tensor, mask: &Tensor) -> bool {
    let (&[b, h, q, k], &[batch, s]) = (value.shape(), mask.shape()) else { return false };
    if k != s || !(b == batch || b == 1) {
        return false;
    }
    let (values, mask) = (value.to_f32(), mask.to_f32());
    values.iter().enumerate().all(|(i, &v)| {
        let row = i / (h * q * k);
        if mask[row * s + i % k] != 0.0 { v == 0.0 } else { v <= MASKED }
    })
}

/// `Where(mask, 0, lowest)` as `[B, 1, 1, S]`.
fn plain(graph: &mut Graph, mask: ValueId) -> Result<ValueId, GraphError> {
    let on = match graph.value(mask).dtype {
        DType::Bool => mask,
        _ => graph.op("Cast", &[mask], Attrs::none().with("to", 9i64))?,
    };
    let axes = graph.ints(&[1, 2]);
    let on = graph.op("Unsqueeze", &[on, axes], Attrs::none())?;
    let (zero, lowest) = (graph.float(0.0), graph.float(f32::MIN));
    graph.op("Where", &[on, zero, lowest], Attrs::none())
}
