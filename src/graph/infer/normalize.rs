//! Softmax and the normalizations.

use super::Concrete;
use super::broadcast::need_within;
use super::call::{Call, Facts, like};
use crate::graph::GraphError;
use crate::tensor::DType;

/// Operators along one axis that keep the shape: `Softmax`, `LogSoftmax`, `Hardmax`,
/// `LpNormalization`.
pub(super) fn along_axis(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_float(x)?;
    call.axis_attr(-1, x.shape.len())?;
    Ok(vec![like(x, x.shape.clone())])
}

/// `LayerNormalization` (Y, Mean, InvStdDev) and `RMSNormalization` (Y).
pub(super) fn layer(call: &Call) -> Facts {
    let x = call.input(0)?;
    call.need_float(x)?;
    let axis = call.axis_attr(-1, x.shape.len())?;
    for (what, i) in [("the scale", 1), ("the bias", 2)] {
        if let Some(p) = call.optional(i) {
            call.need_float(p)?;
            need_within(call, what, p, &x.shape[axis..])?;
        }
    }
    let mut outputs = vec![like(x, x.shape.clone())];
    if call.node.op == "LayerNormalization" {
        let mut shape = x.shape.clone();
        shape[axis..].fill(1);
        // Statistics are f32 unless the attribute asks for the type of the input.
        let dtype = if call.int_or("stash_type", 1)? == 1 { DType::F32 } else { x.dtype };
        outputs.extend([Concrete::unknown(dtype, shape.clone()), Concrete::unknown(dtype, shape)]);
    }
    Ok(outputs)
}

/// The parameters `inputs` have one element per channel of `[N, C, ..]`.
fn need_per_channel(
    call: &Call,
    x: &Concrete,
    inputs: std::ops::Range<usize>,
) -> Result<(), GraphError> {
    call.need_float(x)?;
    call.need_rank("the input", x, 2)?;
    for i in inputs {
        let p = call.input(i)?;
        call.need_float(p)?;
        call.need_shape("a parameter", p, &x.shape[1..2])?;
    }
    Ok(())
}

/// `BatchNormalization` for inference.
pub(super) fn batch(call: &Call) -> Facts {
    let x = call.input(0)?;
    need_per_channel(call, x, 1..5)?;
    if call.flag("training_mode", false)? {
        return Err(call.node.unsupported("training_mode=1"));
    }
    Ok(vec![like(x, x.shape.clone())])
}

/// `InstanceNormalization`.
pub(super) fn instance(call: &Call) -> Facts {
    let x = call.input(0)?;
    need_per_channel(call, x, 1..3)?;
    Ok(vec![like(x, x.shape.clone())])
}

/// `GroupNormalization`: parameters per channel or, before operator set 21, per group.
pub(super) fn group(call: &Call) -> Facts {
    let x = call.input(0)?;
    need_per_channel(call, x, 0..0)?;
    let groups = call.size(call.int_or("num_groups", 0)?, "num_groups")?;
    let channels = x.shape[1];
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(call.invalid(format!("{channels} channels in {groups} groups")));
    }
    for i in 1..3 {
        let p = call.input(i)?;
        call.need_float(p)?;
        if p.shape != [channels] && p.shape != [groups] {
            let have = &p.shape;
            return Err(call.invalid(format!("a parameter has shape {have:?}, not [{channels}]")));
        }
    }
    Ok(vec![like(x, x.shape.clone())])
}

/// `LRN` and other operators of `[N, C, ..]` that keep the shape.
pub(super) fn channels(call: &Call) -> Facts {
    let x = call.input(0)?;
    need_per_channel(call, x, 0..0)?;
    Ok(vec![like(x, x.shape.clone())])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;

    #[test]
    fn softmax_keeps_the_shape() {
        assert_eq!(shape("Softmax", attrs().with("axis", 1), &[unknown(&[2, 3, 4])]), [2, 3, 4]);
        assert!(refused("Softmax", attrs().with("axis", 3), &[unknown(&[2, 3, 4])]));
        assert!(refused("LogSoftmax", attrs(), &[unknown(&[])]));
        assert!(refused("Softmax", attrs(), &[ids(&[2])]));
    }

    #[test]
    fn layer_norm_has_statistics() {
        let inputs = [unknown(&[2, 7, 4]), unknown(&[4]), unknown(&[4])];
        let y = run_n("LayerNormalization", attrs(), &inputs, 3).unwrap();
        assert_eq!(y[0].shape, [2, 7, 4]);
        assert_eq!((&y[1].shape[..], &y[2].shape[..]), (&[2, 7, 1][..], &[2, 7, 1][..]));
        assert!(run_n("LayerNormalization", attrs(), &inputs, 4).is_err());
        let wide = attrs().with("axis", 1);
        let y = run_n("LayerNormalization", wide, &[unknown(&[2, 7, 4]), unknown(&[7, 4])], 2);
        assert_eq!(y.unwrap()[1].shape, [2, 1, 1]);
        assert!(refused("LayerNormalization", attrs(), &[unknown(&[2, 4]), unknown(&[3])]));
        assert!(refused("LayerNormalization", attrs(), &[unknown(&[2, 4]), unknown(&[2, 4])]));
        assert!(run_n("RMSNormalization", attrs(), &inputs[..2], 1).is_ok());
    }

    #[test]
    fn channels_must_agree() {
        let x = unknown(&[2, 6, 5, 5]);
        let p = unknown(&[6]);
        let five = [x.clone(), p.clone(), p.clone(), p.clone(), p.clone()];
        assert_eq!(shape("BatchNormalization", attrs(), &five), [2, 6, 5, 5]);
        let training = attrs().with("training_mode", 1);
        assert!(run("BatchNormalization", training, &five).is_err());
        let wrong = [x.clone(), unknown(&[5]), p.clone()];
        assert!(refused("InstanceNormalization", attrs(), &wrong));
        assert!(refused("InstanceNormalization", attrs(), &[unknown(&[6]), p.clone(), p.clone()]));
        let three = [x, p.clone(), p];
        assert_eq!(shape("InstanceNormalization", attrs(), &three), [2, 6, 5, 5]);
        let groups = |n: i64| attrs().with("num_groups", n);
        assert_eq!(shape("GroupNormalization", groups(3), &three), [2, 6, 5, 5]);
        assert!(refused("GroupNormalization", groups(4), &three));
        assert!(refused("GroupNormalization", groups(0), &three));
        assert!(refused("GroupNormalization", groups(-1), &three));
    }
}
