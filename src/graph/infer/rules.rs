//! Which rule an operator follows.

use super::call::{Call, Facts};
use super::{
    binary, constant, conv, fused, gather, layout, matmul, normalize, pieces, pool, quantize,
    reduce, scatter, search, select, unary,
};

/// What an operator takes and how its outputs follow.
pub(super) struct Rule {
    /// The operators it is for.
    ops: &'static [&'static str],
    /// Inputs that must be there, counted from the first.
    pub least: usize,
    /// Most inputs.
    pub most: usize,
    pub apply: fn(&Call) -> Facts,
}

/// The rule of operator `op`.
pub(super) fn find(op: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.ops.contains(&op))
}

const fn rule(
    ops: &'static [&'static str],
    least: usize,
    most: usize,
    apply: fn(&Call) -> Facts,
) -> Rule {
    Rule { ops, least, most, apply }
}

/// Most inputs of a variadic operator. No real model comes near.
const MANY: usize = 4096;

static RULES: &[Rule] = &[
    rule(
        &[
            "Sqrt",
            "Reciprocal",
            "Exp",
            "Log",
            "Erf",
            "Tanh",
            "Sigmoid",
            "LeakyRelu",
            "Elu",
            "Selu",
            "Celu",
            "HardSigmoid",
            "HardSwish",
            "Mish",
            "Gelu",
            "Softplus",
            "Softsign",
            "ThresholdedRelu",
            "Floor",
            "Ceil",
            "Round",
            "Sin",
            "Cos",
            "Tan",
        ],
        1,
        1,
        unary::floating,
    ),
    rule(&["Neg", "Abs", "Sign", "Relu"], 1, 1, unary::numeric),
    rule(&["Not"], 1, 1, unary::not),
    rule(&["IsNaN", "IsInf"], 1, 1, unary::classify),
    rule(&["Identity"], 1, 1, unary::identity),
    rule(&["Dropout"], 1, 3, unary::dropout),
    rule(&["Add", "Sub", "Mul", "Div", "Mod"], 2, 2, binary::arithmetic),
    rule(&["Pow"], 2, 2, binary::pow),
    rule(&["And", "Or", "Xor"], 2, 2, binary::logic),
    rule(&["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], 2, 2, binary::compare),
    rule(&["Min", "Max", "Sum", "Mean"], 1, MANY, binary::variadic),
    rule(&["PRelu"], 2, 2, binary::prelu),
    rule(&["Where"], 3, 3, select::select),
    rule(&["Clip"], 1, 3, select::clip),
    rule(&["Cast"], 1, 1, select::cast),
    rule(&["CastLike"], 2, 2, select::cast),
    rule(&["Constant"], 0, 0, constant::constant),
    rule(&["ConstantOfShape"], 1, 1, constant::constant_of_shape),
    rule(&["Shape"], 1, 1, constant::shape),
    rule(&["Size"], 1, 1, constant::size),
    rule(&["Range"], 3, 3, constant::range),
    rule(&["Reshape"], 2, 2, layout::reshape),
    rule(&["Flatten"], 1, 1, layout::flatten),
    rule(&["Squeeze"], 1, 2, layout::squeeze),
    rule(&["Unsqueeze"], 1, 2, layout::unsqueeze),
    rule(&["Transpose"], 1, 1, layout::transpose),
    rule(&["DepthToSpace", "SpaceToDepth"], 1, 1, layout::depth_space),
    rule(&["Concat"], 1, MANY, pieces::concat),
    rule(&["Split"], 1, 2, pieces::split),
    rule(&["Slice"], 3, 5, pieces::slice),
    rule(&["Pad"], 2, 4, pieces::pad),
    rule(&["Expand"], 2, 2, pieces::expand),
    rule(&["Tile"], 2, 2, pieces::tile),
    rule(&["Trilu"], 1, 2, pieces::trilu),
    rule(&["Gather"], 2, 2, gather::gather),
    rule(&["GatherElements"], 2, 2, gather::gather_elements),
    rule(&["GatherND"], 2, 2, gather::gather_nd),
    rule(&["FrozenGather"], 1, 3, gather::frozen),
    rule(&["ScatterND"], 3, 3, scatter::scatter_nd),
    rule(&["ScatterElements"], 3, 3, scatter::scatter_elements),
    rule(&["MatMul"], 2, 2, matmul::matmul),
    rule(&["MatMulInteger"], 2, 4, matmul::matmul_integer),
    rule(&["QLinearMatMul"], 8, 8, matmul::qlinear_matmul),
    rule(&["Gemm"], 2, 3, matmul::gemm),
    rule(&["Einsum"], 1, MANY, matmul::einsum),
    rule(&["FrozenLinear"], 2, 3, matmul::frozen),
    rule(&["FusedAttention"], 3, 4, fused::attention),
    rule(&["FusedAttentionGrad"], 4, 5, fused::attention_grad),
    rule(&["FusedGeluGrad"], 2, 2, fused::gelu_grad),
    rule(&["FusedLayerNormGrad"], 3, 3, fused::layer_norm_grad),
    rule(
        &[
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ],
        1,
        2,
        reduce::reduce,
    ),
    rule(&["ArgMax", "ArgMin"], 1, 1, reduce::arg),
    rule(&["CumSum"], 2, 2, reduce::cumsum),
    rule(&["TopK"], 2, 2, search::top_k),
    rule(&["OneHot"], 3, 3, search::one_hot),
    rule(&["NonZero"], 1, 1, search::non_zero),
    rule(&["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"], 1, 1, normalize::along_axis),
    rule(&["LayerNormalization"], 2, 3, normalize::layer),
    rule(&["RMSNormalization"], 2, 2, normalize::layer),
    rule(&["BatchNormalization"], 5, 5, normalize::batch),
    rule(&["InstanceNormalization"], 3, 3, normalize::instance),
    rule(&["GroupNormalization"], 3, 3, normalize::group),
    rule(&["LRN"], 1, 1, normalize::channels),
    rule(&["Conv"], 2, 3, conv::conv),
    rule(&["ConvInteger"], 2, 4, conv::conv_integer),
    rule(&["QLinearConv"], 8, 9, conv::qlinear_conv),
    rule(&["ConvTranspose"], 2, 3, conv::conv_transpose),
    rule(&["MaxPool", "AveragePool", "LpPool"], 1, 1, pool::pool),
    rule(&["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"], 1, 1, pool::global),
    rule(&["DequantizeLinear"], 2, 3, quantize::dequantize),
    rule(&["QuantizeLinear"], 2, 3, quantize::quantize),
    rule(&["DynamicQuantizeLinear"], 1, 1, quantize::dynamic),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::{Concrete, infer, testing::node};
    use super::*;
    use crate::graph::{Attr, Attrs};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn every_operator_has_one_rule() {
        let mut seen = HashSet::new();
        for op in RULES.iter().flat_map(|r| r.ops) {
            assert!(seen.insert(op), "{op}");
        }
        assert!(RULES.iter().all(|r| r.least <= r.most));
    }

    fn dtype() -> impl Strategy<Value = DType> {
        use DType::*;
        prop_oneof![
            4 => Just(F32),
            4 => Just(I64),
            2 => Just(Bool),
            1 => prop::sample::select(vec![F16, F64, I32, I8, U8]),
        ]
    }

    fn dim() -> impl Strategy<Value = usize> {
        prop_oneof![
            12 => 1usize..4,
            1 => Just(0),
            1 => prop::sample::select(vec![1 << 20, 1 << 40, isize::MAX as usize, usize::MAX]),
        ]
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![
            12 => -4i64..6,
            1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, 1 << 40, -(1 << 40)]),
        ]
    }

    fn concrete() -> impl Strategy<Value = Concrete> {
        let shape = prop::collection::vec(dim(), 0..5);
        (dtype(), shape, any::<bool>(), prop::collection::vec(number(), 81)).prop_map(
            |(dtype, shape, known, numbers)| {
                let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                let value = n.filter(|&n| known && n <= numbers.len()).and_then(|n| {
                    let t = super::super::values::Numbers::Ints(numbers[..n].to_vec());
                    t.tensor(dtype, &shape).ok()
                });
                Concrete { dtype, shape, value }
            },
        )
    }

    fn attribute() -> impl Strategy<Value = Attr> {
        let words =
            vec!["none", "add", "edge", "reflect", "wrap", "SAME_UPPER", "ij,jk->ik", "VALID"];
        prop_oneof![
            8 => number().prop_map(Attr::Int),
            4 => prop::collection::vec(number(), 0..5).prop_map(Attr::Ints),
            2 => prop::collection::vec(1i64..4, 1..5).prop_map(Attr::Ints),
            1 => prop::sample::select(words).prop_map(Attr::from),
            1 => Just(Attr::Tensor(Tensor::scalar(1i64))),
        ]
    }

    const NAMES: [&str; 36] = [
        "allowzero",
        "auto_pad",
        "axes",
        "axis",
        "backward",
        "batch_dims",
        "block_size",
        "blocksize",
        "ceil_mode",
        "dilations",
        "end",
        "equation",
        "exclusive",
        "fmod",
        "group",
        "keepdims",
        "kernel_shape",
        "mode",
        "noop_with_empty_axes",
        "num_groups",
        "num_outputs",
        "output_padding",
        "output_shape",
        "pads",
        "perm",
        "reduction",
        "reverse",
        "start",
        "stash_type",
        "strides",
        "to",
        "transA",
        "transB",
        "upper",
        "value",
        "value_ints",
    ];

    proptest! {
        /// Whatever the inputs and attributes, a rule answers, and what it says is consistent.
        #[test]
        fn no_input_breaks_a_rule(
            inputs in prop::collection::vec(prop::option::weighted(0.9, concrete()), 0..6),
            same in any::<bool>(),
            attrs in prop::collection::vec((prop::sample::select(&NAMES[..]), attribute()), 0..6),
            outputs in 0usize..4,
        ) {
            let mut inputs = inputs;
            // Most rules look no further if the types differ.
            if let (true, Some(Some(first))) = (same, inputs.first()) {
                let first = first.clone();
                inputs.iter_mut().flatten().filter(|x| x.dtype != DType::I64).for_each(|x| {
                    *x = first.clone();
                });
            }
            let attrs = Attrs(attrs.into_iter().map(|(n, a)| (n.to_owned(), a)).collect());
            for op in RULES.iter().flat_map(|r| r.ops) {
                let Ok(facts) = infer(&node(op, attrs.clone()), &inputs, outputs) else { continue };
                prop_assert_eq!(facts.len(), outputs, "{}", op);
                for fact in facts {
                    if let Some(t) = fact.value {
                        prop_assert_eq!(t.dtype(), fact.dtype, "{}", op);
                        prop_assert_eq!(t.shape(), &fact.shape[..], "{}", op);
                    }
                }
            }
        }
    }
}
