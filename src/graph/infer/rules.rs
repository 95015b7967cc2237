//! Which rule an operator follows.

use super::call::{Call, Facts};
use super::{
    binary, constant, conv, gather, layout, matmul, normalize, pieces, pool, quantize, reduce,
    scatter, search, select, unary,
};

/// What an operator takes and how its outputs follow.
pub(super) struct Rule {
    /// Inputs that must be there, counted from the first.
    pub least: usize,
    /// Most inputs.
    pub most: usize,
    pub apply: fn(&Call) -> Facts,
}

/// The rule of operator `op`.
pub(super) fn find(op: &str) -> Option<Rule> {
    /// No operator of a real model comes near.
    const MANY: usize = 4096;
    let (least, most, apply): (usize, usize, fn(&Call) -> Facts) = match op {
        "Sqrt" | "Reciprocal" | "Exp" | "Log" | "Erf" | "Tanh" | "Sigmoid" | "LeakyRelu"
        | "Elu" | "Selu" | "Celu" | "HardSigmoid" | "HardSwish" | "Mish" | "Gelu" | "Softplus"
        | "Softsign" | "ThresholdedRelu" | "Floor" | "Ceil" | "Round" | "Sin" | "Cos" | "Tan" => {
            (1, 1, unary::floating)
        }
        "Neg" | "Abs" | "Sign" | "Relu" => (1, 1, unary::numeric),
        "Not" => (1, 1, unary::not),
        "IsNaN" | "IsInf" => (1, 1, unary::classify),
        "Identity" => (1, 1, unary::identity),
        "Dropout" => (1, 3, unary::dropout),

        "Add" | "Sub" | "Mul" | "Div" | "Mod" => (2, 2, binary::arithmetic),
        "Pow" => (2, 2, binary::pow),
        "And" | "Or" | "Xor" => (2, 2, binary::logic),
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => (2, 2, binary::compare),
        "Min" | "Max" | "Sum" | "Mean" => (1, MANY, binary::variadic),
        "PRelu" => (2, 2, binary::prelu),
        "Where" => (3, 3, select::select),
        "Clip" => (1, 3, select::clip),
        "Cast" => (1, 1, select::cast),
        "CastLike" => (2, 2, select::cast),

        "Constant" => (0, 0, constant::constant),
        "ConstantOfShape" => (1, 1, constant::constant_of_shape),
        "Shape" => (1, 1, constant::shape),
        "Size" => (1, 1, constant::size),
        "Range" => (3, 3, constant::range),

        "Reshape" => (2, 2, layout::reshape),
        "Flatten" => (1, 1, layout::flatten),
        "Squeeze" => (1, 2, layout::squeeze),
        "Unsqueeze" => (1, 2, layout::unsqueeze),
        "Transpose" => (1, 1, layout::transpose),
        "DepthToSpace" | "SpaceToDepth" => (1, 1, layout::depth_space),

        "Concat" => (1, MANY, pieces::concat),
        "Split" => (1, 2, pieces::split),
        "Slice" => (3, 5, pieces::slice),
        "Pad" => (2, 4, pieces::pad),
        "Expand" => (2, 2, pieces::expand),
        "Tile" => (2, 2, pieces::tile),
        "Trilu" => (1, 2, pieces::trilu),

        "Gather" => (2, 2, gather::gather),
        "GatherElements" => (2, 2, gather::gather_elements),
        "GatherND" => (2, 2, gather::gather_nd),
        "FrozenGather" => (1, 3, gather::frozen),
        "ScatterND" => (3, 3, scatter::scatter_nd),
        "ScatterElements" => (3, 3, scatter::scatter_elements),

        "MatMul" => (2, 2, matmul::matmul),
        "MatMulInteger" => (2, 4, matmul::matmul_integer),
        "QLinearMatMul" => (8, 8, matmul::qlinear_matmul),
        "Gemm" => (2, 3, matmul::gemm),
        "Einsum" => (1, MANY, matmul::einsum),
        "FrozenLinear" => (2, 3, matmul::frozen),

        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => {
            (1, 2, reduce::reduce)
        }
        "ArgMax" | "ArgMin" => (1, 1, reduce::arg),
        "CumSum" => (2, 2, reduce::cumsum),
        "TopK" => (2, 2, search::top_k),
        "OneHot" => (3, 3, search::one_hot),
        "NonZero" => (1, 1, search::non_zero),

        "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" => (1, 1, normalize::along_axis),
        "LayerNormalization" => (2, 3, normalize::layer),
        "RMSNormalization" => (2, 2, normalize::layer),
        "BatchNormalization" => (5, 5, normalize::batch),
        "InstanceNormalization" => (3, 3, normalize::instance),
        "GroupNormalization" => (3, 3, normalize::group),
        "LRN" => (1, 1, normalize::channels),

        "Conv" => (2, 3, conv::conv),
        "ConvInteger" => (2, 4, conv::conv_integer),
        "QLinearConv" => (8, 9, conv::qlinear_conv),
        "ConvTranspose" => (2, 3, conv::conv_transpose),
        "MaxPool" | "AveragePool" | "LpPool" => (1, 1, pool::pool),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => (1, 1, pool::global),

        "DequantizeLinear" => (2, 3, quantize::dequantize),
        "QuantizeLinear" => (2, 3, quantize::quantize),
        "DynamicQuantizeLinear" => (1, 1, quantize::dynamic),
        _ => return None,
    };
    Some(Rule { least, most, apply })
}
