//! Sites: the places in a backbone where something can attach, found by structure alone.
//!
//! Names of values are labels in the model file; a [`Sites`] is stored in the manifest and looked
//! up again when the backbone is loaded.

pub(crate) mod attention;
mod check;
mod cnn;
mod discover;
mod walk;

use serde::{Deserialize, Serialize};

pub use discover::{SiteError, discover};

/// What the rows of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Token ids.
    Text,
    /// Picture patches, or the pixels of a convolutional network.
    Image,
    /// Frames of sound features: the input is f32 `[B, T, F]`.
    Audio,
}

/// Every place where something can attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sites {
    /// What goes in.
    pub modality: Modality,
    /// Width d of the residual stream.
    pub width: usize,
    /// Attention heads H; 0 without attention.
    pub heads: usize,
    /// True if each sublayer normalises its input (ViT, GPT-2), false if its output (BERT).
    pub pre_norm: bool,
    /// Where token rows are put; nowhere in a convolutional network.
    #[serde(default, skip_serializing_if = "TokenSite::is_absent")]
    pub tokens: TokenSite,
    /// Where the position table is read, in models with learned absolute positions over tokens.
    pub positions: Option<PositionSite>,
    /// The transformer blocks, first to last.
    pub layers: Vec<LayerSite>,
    /// Linear layers inside the blocks.
    pub linears: Vec<LinearSite>,
    /// Layer normalisations.
    pub norms: Vec<NormSite>,
    /// The last hidden state `[B, S, d]`; the last feature map `[B, d, H, W]` of a convolutional
    /// network.
    pub hidden: String,
    /// The model's own pooled output, if it is exported: `[B, d]`, or `[B, pooled_width]`.
    pub pooled: Option<String>,
    /// Input with token ids, pixels or sound features.
    pub input: String,
    /// Input with the padding mask `[B, S]`.
    pub mask: Option<String>,
    /// Input with the segment ids `[B, S]`.
    pub types: Option<String>,
    /// Width of the pooled output where it is not d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooled_width: Option<usize>,
    /// The convolutions and blocks of a convolutional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnn: Option<CnnSites>,
}

/// Where things attach in a convolutional network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CnnSites {
    /// Every convolution on the way to the feature, first to last.
    pub convs: Vec<ConvSite>,
    /// Residual blocks and inverted bottlenecks, first to last.
    pub blocks: Vec<BlockSite>,
}

/// A convolution, with the batch normalisation that was folded into it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvSite {
    /// x, `[B, inputs, H, W]`.
    pub input: String,
    /// y, `[B, outputs, H', W']`, bias included.
    pub output: String,
    /// Channels of x.
    pub inputs: usize,
    /// Channels of y.
    pub outputs: usize,
    /// Height and width of the kernel. The weight is `[outputs, inputs / groups, kernel..]`.
    pub kernel: Vec<usize>,
    /// Groups.
    pub groups: usize,
    /// The block it lies in.
    pub block: Option<usize>,
}

/// A block of a convolutional network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSite {
    /// What enters, `[B, inputs, H, W]`.
    pub input: String,
    /// Output of the main branch, before the residual addition if there is one.
    pub branch: String,
    /// What leaves, `[B, outputs, H / stride, W / stride]`.
    pub output: String,
    /// Channels that enter.
    pub inputs: usize,
    /// Channels that leave.
    pub outputs: usize,
    /// True if the branch is added to a shortcut.
    pub adds: bool,
    /// Height and width that enter, if they are fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// Height that enters over height that leaves.
    pub stride: usize,
    /// Blocks of one stage have one size of feature map.
    pub stage: usize,
}

/// Where token rows are put.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenSite {
    /// The value `[B, S, d]`; empty where there is none.
    pub value: String,
    /// How many rows stay in front: 0 for text, 1 (the class row) for pictures and sounds.
    pub after: usize,
}

impl TokenSite {
    /// True if token rows have no place.
    pub fn is_absent(&self) -> bool {
        self.value.is_empty()
    }
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
    /// Its output `[B, S, d]`; `[B, d]` where only the class row is normalised.
    pub output: String,
}

impl Sites {
    /// The linear layer with that role in that block.
    pub fn linear(&self, layer: usize, role: Role) -> Option<&LinearSite> {
        self.linears.iter().find(|l| l.layer == layer && l.role == role)
    }
}
