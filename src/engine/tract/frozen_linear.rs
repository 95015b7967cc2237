//! A product with frozen weights as an operator of tract.

use tract_onnx::tract_hir::internal::*;

use crate::engine::kernels::Linear;

/// y = x W + b or, backward, y = x W^T + b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrozenLinear(pub(super) Linear);

impl Op for FrozenLinear {
    fn name(&self) -> StaticName {
        "FrozenLinear".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?} {:?}", self.0.direction, self.0.weight)])
    }

    op_as_typed_op!();
}

impl EvalOp for FrozenLinear {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = args_1!(inputs);
        Ok(tvec!(self.0.product(&x)?.into_tvalue()))
    }
}

impl TypedOp for FrozenLinear {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].datum_type == f32::datum_type(), "the input is no f32");
        let mut shape = inputs[0].shape.to_tvec();
        let last = shape.last_mut().context("the input has no dimensions")?;
        *last = self.0.widths().1.to_dim();
        Ok(tvec!(f32::fact(&*shape)))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let n = inputs[0].shape.volume() * self.0.widths().1;
        Ok(tvec!((Cost::FMA(f32::datum_type()), n)))
    }
}
