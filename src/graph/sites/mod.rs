//! Sites: the places in a backbone where something can attach, found by structure alone.
//!
//! Names of values are labels in the model file; a [`Sites`] is stored in the manifest and looked
//! up again when the backbone is loaded.

pub(crate) mod attention;
mod check;
mod discover;

use serde::{Deserialize, Serialize};

pub use discover::{SiteError, discover};

/// What the rows of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Token ids.
    Text,
    /// Picture patches.
    Image,
}

/// Every place where something can attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sites {
    /// What goes in.
    pub modality: Modality,
    /// Width d of the residual stream.
    pub width: usize,
    /// Attention heads H.
    pub heads: usize,
    /// True if each sublayer normalises its input (ViT, GPT-2), false if its output (BERT).
    pub pre_norm: bool,
    /// Where token rows are put.
    pub tokens: TokenSite,
    /// Where the position table is read, in models with learned absolute positions over tokens.
    pub positions: Option<PositionSite>,
    /// The transformer blocks, first to last.
    pub layers: Vec<LayerSite>,
    /// Linear layers inside the blocks.
    pub linears: Vec<LinearSite>,
    /// Layer normalisations.
    pub norms: Vec<NormSite>,
    /// The last hidden state `[B, S, d]`.
    pub hidden: String,
    /// The model's own pooled output `[B, d]`, if it is exported.
    pub pooled: Option<String>,
    /// Input with token ids or pixels.
    pub input: String,
    /// Input with the padding mask `[B, S]`.
    pub mask: Option<String>,
    /// Input with the segment ids `[B, S]`.
    pub types: Option<String>,
}

/// Where token rows are put.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenSite {
    /// The value `[B, S, d]`.
    pub value: String,
    /// How many rows stay in front: 0 for text, 1 (the class row) for pictures.
    pub after: usize,
}

/// The look-up in the table of learned positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionSite {
    /// The gathered positions.
    pub value: String,
    /// The indices.
    pub indices: String,
    /// Rows of the table.
    pub rows: usize,
}

/// One transformer block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSite {
    /// The residual stream that enters, `[B, S, d]`.
    pub input: String,
    /// Keys `[B, S, H, d/H]` after the heads are split.
    pub keys: String,
    /// Values `[B, S, H, d/H]` after the heads are split.
    pub values: String,
    /// Additive masks and fills on the way to the softmax: the nodes' outputs, each with the
    /// number of the input that holds the mask.
    pub masks: Vec<(String, usize)>,
    /// Output of the attention sublayer before the residual addition, `[B, S, d]`.
    pub attention_output: String,
    /// Output of the feed-forward sublayer before the residual addition, `[B, S, d]`.
    pub ffn_output: String,
}

/// What a linear layer does in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Role {
    Query,
    Key,
    Value,
    AttentionOutput,
    FfnUp,
    FfnDown,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 6] =
        [Role::Query, Role::Key, Role::Value, Role::AttentionOutput, Role::FfnUp, Role::FfnDown];

    /// The name used in tensor names: `attention_output`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Query => "query",
            Role::Key => "key",
            Role::Value => "value",
            Role::AttentionOutput => "attention_output",
            Role::FfnUp => "ffn_up",
            Role::FfnDown => "ffn_down",
        }
    }
}

/// A linear layer y = x W + b inside a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearSite {
    /// Block number.
    pub layer: usize,
    /// What it does there.
    pub role: Role,
    /// x, `[B, S, in]`.
    pub input: String,
    /// y, `[B, S, out]`.
    pub output: String,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

/// A layer normalisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NormSite {
    /// `embedding_norm`, `{layer}.attention_norm`, `{layer}.ffn_norm` or `final_norm`.
    pub name: String,
    /// Its output `[B, S, d]`.
    pub output: String,
}

impl Sites {
    /// The linear layer with that role in that block.
    pub fn linear(&self, layer: usize, role: Role) -> Option<&LinearSite> {
        self.linears.iter().find(|l| l.layer == layer && l.role == role)
    }
}
