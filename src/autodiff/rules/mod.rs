//! Vector-Jacobian products, one file per operator family.

mod activation;
mod arithmetic;
mod conv;
mod frozen;
mod fused;
mod gather;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod shape;
mod slice;

use super::step::Step;
use crate::graph::GraphError;

/// Writes the gradients of a node's inputs.
pub(super) type Rule = fn(&mut Step<'_>) -> Result<(), GraphError>;

/// The rule of operator `op`.
pub(super) fn find(op: &str) -> Option<Rule> {
    Some(match op {
        "Add" | "Sum" => arithmetic::sum,
        "Mean" => arithmetic::mean,
        "Sub" => arithmetic::sub,
        "Mul" => arithmetic::mul,
        "Div" => arithmetic::div,
        "Neg" => arithmetic::neg,
        "Abs" => arithmetic::abs,
        "Pow" => arithmetic::pow,
        "Sqrt" => arithmetic::sqrt,
        "Reciprocal" => arithmetic::reciprocal,
        "Exp" => arithmetic::exp,
        "Log" => arithmetic::log,
        "Sin" => arithmetic::sin,
        "Cos" => arithmetic::cos,
        "Min" | "Max" => arithmetic::extremum,
        "Clip" => arithmetic::clip,
        "Where" => arithmetic::select,
        "Cast" | "CastLike" => arithmetic::cast,
        "Identity" | "Dropout" => arithmetic::identity,
        // Constant almost everywhere.
        "Ceil" | "Floor" | "Round" | "Sign" => |_| Ok(()),

        "Relu" => activation::relu,
        "LeakyRelu" => activation::leaky_relu,
        "Elu" => activation::elu,
        "Sigmoid" => activation::sigmoid,
        "HardSigmoid" => activation::hard_sigmoid,
        "HardSwish" => activation::hard_swish,
        "Softplus" => activation::softplus,
        "Tanh" => activation::tanh,
        "Erf" => activation::erf,
        "Gelu" => activation::gelu,
        "Softmax" => activation::softmax,
        "LogSoftmax" => activation::log_softmax,

        "MatMul" => matmul::matmul,
        "Gemm" => matmul::gemm,
        "Einsum" => matmul::einsum,
        "FrozenLinear" => frozen::linear,
        "FrozenGather" => frozen::gather,
        "FusedAttention" => fused::attention,

        "LayerNormalization" => norm::layer,
        "RMSNormalization" => norm::root_mean_square,
        "InstanceNormalization" => norm::instance,
        "BatchNormalization" => norm::batch,

        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => shape::reshape,
        "Transpose" => shape::transpose,
        "Expand" => shape::expand,
        "Tile" => shape::tile,
        "Trilu" => shape::trilu,
        "Concat" => slice::concat,
        "Split" => slice::split,
        "Slice" => slice::slice,
        "Pad" => slice::pad,
        "Gather" => gather::gather,
        "GatherND" => gather::gather_nd,
        "GatherElements" => gather::gather_elements,

        "ReduceSum" => reduce::sum,
        "ReduceMean" => reduce::mean,
        "ReduceMax" | "ReduceMin" => reduce::extremum,
        "ReduceL1" => reduce::l1,
        "ReduceL2" => reduce::l2,
        "ReduceSumSquare" => reduce::sum_square,
        "ReduceLogSumExp" => reduce::log_sum_exp,

        "Conv" => conv::conv,
        "MaxPool" => pool::max,
        "AveragePool" => pool::average,
        "GlobalAveragePool" => pool::global_average,
        "GlobalMaxPool" => reduce::extremum,
        _ => return None,
    })
}
