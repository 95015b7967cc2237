//! Operators of typed models as nodes of the model that a graph is lowered to.

use tract_onnx::tract_hir::internal::*;

/// A node of `op`, whose outputs follow from the types and shapes of its inputs.
pub(super) fn typed(op: impl TypedOp, outputs: usize) -> Box<dyn InferenceOp> {
    expand(Typed { op: Box::new(op), outputs })
}

#[derive(Clone, Debug)]
struct Typed {
    op: Box<dyn TypedOp>,
    outputs: usize,
}

impl Expansion for Typed {
    fn name(&self) -> StaticName {
        self.op.name()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.given_all(inputs.iter().map(|x| &x.datum_type), move |s, types| {
            s.given_all(inputs.iter().map(|x| &x.shape), move |s, shapes| {
                let facts = types.iter().zip(shapes).map(|(dtype, shape)| dtype.fact(shape));
                let facts: TVec<TypedFact> = facts.collect();
                let facts = self.op.output_facts(&facts.iter().collect::<TVec<_>>())?;
                for (y, fact) in outputs.iter().zip(&facts) {
                    s.equals(&y.datum_type, fact.datum_type)?;
                    s.equals(&y.shape, fact.shape.to_tvec())?;
                }
                Ok(())
            })
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, &self.op, inputs)
    }
}
