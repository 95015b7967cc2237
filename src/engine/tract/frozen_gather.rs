//! Rows of a frozen table as an operator of tract.

use tract_onnx::tract_hir::internal::*;

use crate::engine::kernels::Table;

/// Row `id` of a table, as f32, for each of the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrozenGather(pub(super) Table);

impl Op for FrozenGather {
    fn name(&self) -> StaticName {
        "FrozenGather".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.0.table)])
    }

    op_as_typed_op!();
}

impl EvalOp for FrozenGather {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let ids = args_1!(inputs);
        let shape: TVec<usize> = ids.shape().iter().copied().chain([self.0.width()]).collect();
        let mut y = Tensor::zero::<f32>(&shape)?;
        let ids = ids.try_as_plain_ram()?;
        self.0.rows(ids.as_slice::<i64>()?, y.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?)?;
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for FrozenGather {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.push(self.0.width().to_dim());
        Ok(tvec!(f32::fact(&*shape)))
    }
}
