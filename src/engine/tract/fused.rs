//! Fused operators inside tract.

use tract_onnx::tract_hir::internal::*;

use crate::engine::kernels::{Fused, View};

/// One of [`Fused`], with f32 inputs that are all there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FusedOp(pub(super) Fused);

impl Eq for FusedOp {}

impl Op for FusedOp {
    fn name(&self) -> StaticName {
        "Fused".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.0)])
    }

    op_as_typed_op!();
}

impl EvalOp for FusedOp {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let plain = inputs.iter().map(|x| {
            let data = x.try_as_plain_ram()?.as_slice::<f32>()?;
            Ok(View { shape: x.shape(), data })
        });
        let views = plain.collect::<TractResult<TVec<View<'_>>>>()?;
        let like = |&i: &usize| {
            let shape = views.get(i).context("an input is missing")?.shape;
            // SAFETY: `run` writes every element.
            unsafe { Tensor::uninitialized::<f32>(shape) }
        };
        let mut outputs = self.0.outputs().iter().map(like).collect::<TractResult<TVec<_>>>()?;
        let plain = outputs.iter_mut().map(|y| y.try_as_plain_ram_mut());
        let mut plain = plain.collect::<TractResult<TVec<_>>>()?;
        let slices = plain.iter_mut().map(|y| y.as_slice_mut::<f32>());
        let mut slices = slices.collect::<TractResult<TVec<_>>>()?;
        self.0.run(&views, &mut slices)?;
        drop(slices);
        drop(plain);
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for FusedOp {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let floats = inputs.iter().all(|x| x.datum_type == f32::datum_type());
        ensure!(floats, "an input is no f32");
        let like =
            |&i: &usize| Ok(f32::fact(inputs.get(i).context("an input is missing")?.shape.clone()));
        self.0.outputs().iter().map(like).collect()
    }
}
