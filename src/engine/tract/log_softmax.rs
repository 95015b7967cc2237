//! A logarithm of the softmax that stays finite.

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::nn::{Softmax, SoftmaxKind};

/// `LogSoftmax` along one axis. tract's importer takes the logarithm of a softmax, which is minus
/// infinity for a class whose probability underflows: the loss of one confident mistake.
#[derive(Clone, Debug)]
pub(super) struct LogSoftmax {
    pub(super) axis: i64,
}

impl Expansion for LogSoftmax {
    fn name(&self) -> StaticName {
        "LogSoftmax".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&outputs[0].datum_type, &inputs[0].datum_type)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let rank = model.outlet_fact(inputs[0])?.rank();
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        let axis = usize::try_from(axis).ok().filter(|&a| a < rank).context("no such axis")?;
        let kind = SoftmaxKind::LogSoftmax;
        model.wire_node(prefix, Softmax { axes: tvec!(axis), quant_output_dt: None, kind }, inputs)
    }
}
