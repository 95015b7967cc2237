//! Casting data to i64.

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::cast;

/// `Cast` to i64 of fed data. tract's importer casts to its dimension type instead, which suits
/// shapes, but few of its operators compute with it.
#[derive(Clone, Debug)]
pub(super) struct CastToI64;

impl Expansion for CastToI64 {
    fn name(&self) -> StaticName {
        "CastToI64".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        s.equals(&outputs[0].datum_type, i64::datum_type())?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, cast(i64::datum_type()), inputs)
    }
}
