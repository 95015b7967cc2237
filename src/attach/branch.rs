use std::fmt;

use super::Context;
use crate::graph::{Attrs, GraphError};

/// Which sublayer a branch sits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The attention.
    Attention,
    /// The feed-forward block.
    Ffn,
}

impl Place {
    /// The name used in tensor names.
    pub fn name(self) -> &'static str {
        match self {
            Place::Attention => "attention",
            Place::Ffn => "ffn",
        }
    }
}

/// The nonlinearity of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x times the Gaussian distribution function of x.
    Gelu,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
        })
    }
}

/// `y + W_up g(W_down y + b_down) + b_up` on the output of a sublayer, before the residual
/// addition.
pub(super) fn insert(
    context: &mut Context<'_>,
    layer: usize,
    place: Place,
    activation: Activation,
    prefix: &str,
) -> Result<(), GraphError> {
    let site = context.layer(layer)?;
    let output = match place {
        Place::Attention => site.attention_output,
        Place::Ffn => site.ffn_output,
    };
    let tensor = |t: &str| context.tensor(&format!("{prefix}.{t}"));
    let (down, down_bias) = (tensor("down.weight")?, tensor("down.bias")?);
    let (up, up_bias) = (tensor("up.weight")?, tensor("up.bias")?);
    context.insert_after(&output, |g, y| {
        let swap = || Attrs::none().with("perm", [1i64, 0].as_slice());
        let down = g.op("Transpose", &[down], swap())?;
        let h = g.op("MatMul", &[y, down], Attrs::none())?;
        let h = g.op("Add", &[h, down_bias], Attrs::none())?;
        let h = match activation {
            Activation::Relu => g.op("Relu", &[h], Attrs::none())?,
            Activation::Gelu => g.op("Gelu", &[h], Attrs::none().with("approximate", "none"))?,
        };
        let up = g.op("Transpose", &[up], swap())?;
        let h = g.op("MatMul", &[h, up], Attrs::none())?;
        let h = g.op("Add", &[h, up_bias], Attrs::none())?;
        g.op("Add", &[y, h], Attrs::none())
    })
}
