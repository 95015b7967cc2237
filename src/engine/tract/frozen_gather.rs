//! Rows of a frozen table, read from the mapped file.

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::cast;

use super::stored::Stored;

/// Row `id` of a table `[V, D]`, as f32, for each of the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrozenGather {
    /// i8 or f32 `[V, D]`.
    pub(super) table: Stored,
    /// f32 `[V]`, for an i8 table.
    pub(super) scale: Option<Stored>,
}

impl FrozenGather {
    /// Checks types and sizes, so that running can trust them.
    pub(super) fn checked(self) -> TractResult<FrozenGather> {
        let &[rows, _] = self.table.shape() else {
            bail!("the table has shape {:?}, not [V, D]", self.table.shape())
        };
        match &self.scale {
            Some(scale) => {
                self.table.as_slice::<i8>()?;
                scale.as_slice::<f32>()?;
                ensure!(scale.shape() == [rows], "the scale has shape {:?}", scale.shape());
            }
            None => drop(self.table.as_slice::<f32>()?),
        }
        Ok(self)
    }

    fn width(&self) -> usize {
        self.table.shape()[1]
    }

    /// The position of `id`; negative ids count from the end.
    fn row(&self, id: i64) -> TractResult<usize> {
        let rows = self.table.shape()[0];
        let row = if id < 0 { id.checked_add(rows as i64) } else { Some(id) };
        row.and_then(|row| usize::try_from(row).ok())
            .filter(|&row| row < rows)
            .with_context(|| format!("id {id} is outside the table of {rows} rows"))
    }
}

impl Op for FrozenGather {
    fn name(&self) -> StaticName {
        "FrozenGather".into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("{:?}", self.table)])
    }

    op_as_typed_op!();
}

impl EvalOp for FrozenGather {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let ids = args_1!(inputs);
        let width = self.width();
        let shape: TVec<usize> = ids.shape().iter().copied().chain([width]).collect();
        let mut y = Tensor::zero::<f32>(&shape)?;
        if width > 0 {
            let ids = ids.try_as_plain_ram()?;
            let mut plain = y.try_as_plain_ram_mut()?;
            let out = plain.as_slice_mut::<f32>()?.chunks_exact_mut(width);
            for (out, &id) in out.zip(ids.as_slice::<i64>()?) {
                let row = self.row(id)?;
                let at = row * width..(row + 1) * width;
                match &self.scale {
                    Some(scale) => {
                        let scale = scale.as_slice::<f32>()?[row];
                        for (o, &w) in out.iter_mut().zip(&self.table.as_slice::<i8>()?[at]) {
                            *o = f32::from(w) * scale;
                        }
                    }
                    None => out.copy_from_slice(&self.table.as_slice::<f32>()?[at]),
                }
            }
        }
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for FrozenGather {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.to_tvec();
        shape.push(self.width().to_dim());
        Ok(tvec!(f32::fact(&*shape)))
    }
}

impl Expansion for FrozenGather {
    fn name(&self) -> StaticName {
        "FrozenGather".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.given(&inputs[0].shape, move |s, mut shape| {
            shape.push(self.width().to_dim());
            s.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        // Ids that are computed from shapes are of tract's own dimension type.
        let ids = model.wire_node(format!("{prefix}.ids"), cast(i64::datum_type()), inputs)?;
        model.wire_node(prefix, self.clone(), &ids)
    }
}
