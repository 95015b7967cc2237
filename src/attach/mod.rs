//! Attachments: what is inserted into a backbone at a site. Every method is made of these few.

mod branch;
mod cache;
mod deep_rows;
mod head;
mod kv_rows;
mod lite_residual;
mod low_rank;
mod offset;
mod pool;
mod replace;
mod scale;
mod side;
mod token_rows;

use std::collections::HashMap;

pub use branch::{Activation, Place};
pub use head::Classifier;
pub use lite_residual::LiteResidual;
pub use offset::OffsetSite;
pub use replace::frozen_parameters;

use crate::backbone::{Manifest, Pooling};
use crate::graph::sites::{LinearSite, Role};
use crate::graph::{Graph, GraphError, ValueId};

/// One insertion. Tensors are named; [`attach`] gets their values.
#[derive(Clone, Debug, PartialEq)]
pub enum Attachment {
    /// Rows `[P, d]` put into the sequence at the token site.
    TokenRows {
        /// Tensor `[P, d]`.
        rows: String,
        /// P.
        count: usize,
    },
    /// Keys and values `[P, H, d/H]` put in front of those of one layer's attention.
    KvRows {
        /// Block number.
        layer: usize,
        /// Tensor with the keys.
        keys: String,
        /// Tensor with the values.
        values: String,
        /// P.
        count: usize,
    },
    /// Rows `[P, d]` at one block's input that are seen by its attention and dropped behind it.
    DeepRows {
        /// Block number.
        layer: usize,
        /// Tensor `[P, d]`.
        rows: String,
        /// P.
        count: usize,
        /// In the sequence itself, not as keys and values.
        in_sequence: bool,
    },
    /// Learned positions of real tokens start at P instead of 0, as if P tokens stood in front.
    ShiftPositions {
        /// P.
        count: usize,
    },
    /// `y + scale (x A^T) B^T` after a linear layer.
    LowRank {
        /// Block number.
        layer: usize,
        /// Which linear layer.
        role: Role,
        /// Tensor A `[r, in]`.
        a: String,
        /// Tensor B `[out, r]`.
        b: String,
        /// alpha / r.
        scale: f32,
    },
    /// `s y` after a linear layer, or the layer on `s x`.
    Scale {
        /// Block number.
        layer: usize,
        /// Which linear layer.
        role: Role,
        /// Tensor s `[out]`, or `[in]`.
        tensor: String,
        /// On x instead of y.
        on_input: bool,
    },
    /// Other weights for a linear layer.
    ReplaceLinear {
        /// Block number.
        layer: usize,
        /// Which linear layer.
        role: Role,
        /// Tensors are `{prefix}.weight [out, in]` and `{prefix}.bias [out]`.
        prefix: String,
    },
    /// Other gain and shift for a normalisation.
    ReplaceNorm {
        /// Its name.
        name: String,
        /// Tensors are `{prefix}.weight [d]` and `{prefix}.bias [d]`.
        prefix: String,
    },
    /// Other kernels for a convolution.
    ReplaceConv {
        /// Its number in the network.
        conv: usize,
        /// Tensors are `{prefix}.weight [out, in / groups, kh, kw]` and `{prefix}.bias [out]`.
        prefix: String,
    },
    /// A light branch beside a block of a convolutional network.
    LiteResidual(LiteResidual),
    /// `y + b` after a linear layer, a normalisation or a convolution.
    Offset {
        /// After what.
        site: OffsetSite,
        /// Tensor b `[out]`.
        tensor: String,
    },
    /// `y + W_up g(W_down y + b_down) + b_up` on a sublayer's output.
    Branch {
        /// Block number.
        layer: usize,
        /// Which sublayer.
        place: Place,
        /// g.
        activation: Activation,
        /// Tensors are `{prefix}.down.weight [m, d]`, `.down.bias [m]`, `.up.weight [d, m]`, `.up.bias [d]`.
        prefix: String,
    },
    /// Prompts `[M, P, d]` of which every example gets those whose keys are nearest to its query.
    Pool {
        /// Tensor with the prompts `[M, P, d]`.
        prompts: String,
        /// Tensor with the keys `[M, q]`.
        keys: String,
        /// How many prompts an example gets.
        top: usize,
        /// What the query is, `[B, q]`: a feature of the backbone without prompts.
        query: Pooling,
        /// The feature is the mean of the prompts' rows instead of the backbone's.
        from_rows: bool,
    },
    /// A network on the same input, merged into the feature.
    Side {
        /// Its convolutions.
        layers: usize,
        /// The feature that it is merged into.
        pooling: Pooling,
    },
    /// The pooled feature and the classifier on it.
    Head {
        /// How to pool.
        pooling: Pooling,
        /// What maps the feature to class scores.
        classifier: Classifier,
    },
}

/// A backbone with everything inserted.
#[derive(Debug)]
pub struct Attached {
    /// The pooled feature `[B, d]`, if there is a head.
    pub feature: Option<ValueId>,
    /// Class scores `[B, K]`, if there is a head.
    pub logits: Option<ValueId>,
    /// What draws keys to queries, if prompts are chosen by example.
    pub pull: Option<Pull>,
}

/// The part of a prompt pool that its keys are trained by.
#[derive(Clone, Copy, Debug)]
pub struct Pull {
    /// Queries `[B, q]`.
    pub query: ValueId,
    /// Sum of the cosines between a query and the keys that it chose, `[B]`.
    pub nearness: ValueId,
}

/// Inserts `attachments` into `graph`, a copy of the backbone's. `tensors` names the values that
/// hold the delta's tensors in f32: inputs, or results of a reparameterisation.
///
/// # Errors
/// [`GraphError::Undefined`] for a site or tensor that is not there, and shape errors if a tensor
/// does not fit its site.
pub fn attach(
    graph: &mut Graph,
    backbone: &Manifest,
    attachments: &[Attachment],
    tensors: &HashMap<String, ValueId>,
) -> Result<Attached, GraphError> {
    let mut context = Context {
        graph,
        backbone,
        tensors,
        current: HashMap::new(),
        wide_masks: HashMap::new(),
        front_rows: 0,
        feature: None,
    };
    let mut attached = Attached { feature: None, logits: None, pull: None };
    // Heads read what all others changed.
    let (heads, others): (Vec<_>, Vec<_>) =
        attachments.iter().partition(|a| matches!(a, Attachment::Head { .. }));
    for attachment in others.into_iter().chain(heads) {
        match attachment {
            Attachment::TokenRows { rows, count } => token_rows::insert(&mut context, rows, *count),
            Attachment::KvRows { layer, keys, values, count } => {
                kv_rows::insert(&mut context, *layer, keys, values, *count)
            }
            Attachment::DeepRows { layer, rows, count, in_sequence: false } => {
                deep_rows::insert_keys_and_values(&mut context, *layer, rows, *count)
            }
            Attachment::DeepRows { layer, rows, count, in_sequence: true } => {
                deep_rows::insert_in_sequence(&mut context, *layer, rows, *count)
            }
            Attachment::Scale { layer, role, tensor, on_input } => {
                scale::insert(&mut context, (*layer, *role), tensor, *on_input)
            }
            Attachment::ReplaceLinear { layer, role, prefix } => {
                replace::linear(&mut context, *layer, *role, prefix)
            }
            Attachment::ReplaceNorm { name, prefix } => replace::norm(&mut context, name, prefix),
            Attachment::ReplaceConv { conv, prefix } => replace::conv(&mut context, *conv, prefix),
            Attachment::LiteResidual(branch) => branch.insert(&mut context),
            Attachment::ShiftPositions { count } => kv_rows::shift_positions(&mut context, *count),
            Attachment::LowRank { layer, role, a, b, scale } => {
                low_rank::insert(&mut context, (*layer, *role), a, b, *scale)
            }
            Attachment::Offset { site, tensor } => offset::insert(&mut context, site, tensor),
            Attachment::Branch { layer, place, activation, prefix } => {
                branch::insert(&mut context, *layer, *place, *activation, prefix)
            }
            Attachment::Head { pooling, classifier } => {
                let (feature, logits) = head::insert(&mut context, *pooling, classifier)?;
                attached.feature = Some(feature);
                attached.logits = Some(logits);
                Ok(())
            }
            Attachment::Pool { prompts, keys, top, query, from_rows } => {
                let names = (prompts.as_str(), keys.as_str());
                attached.pull = Some(pool::insert(&mut context, names, *top, *query, *from_rows)?);
                Ok(())
            }
            Attachment::Side { layers, pooling } => side::insert(&mut context, *layers, *pooling),
        }?;
    }
    context.graph.infer_all()?;
    Ok(attached)
}

/// What the insertions share.
struct Context<'a> {
    graph: &'a mut Graph,
    backbone: &'a Manifest,
    tensors: &'a HashMap<String, ValueId>,
    /// For a site where something was inserted: what is read there now.
    current: HashMap<ValueId, ValueId>,
    /// Masks that were widened for key rows.
    wide_masks: HashMap<ValueId, ValueId>,
    /// Rows in front of the first real row of the hidden state.
    front_rows: usize,
    /// What the head reads in place of the pooled feature.
    feature: Option<ValueId>,
}

impl Context<'_> {
    fn tensor(&self, name: &str) -> Result<ValueId, GraphError> {
        self.tensors.get(name).copied().ok_or_else(|| GraphError::Undefined(name.to_owned()))
    }

    /// What is read at the site of that name now.
    fn site(&self, name: &str) -> Result<ValueId, GraphError> {
        let mut v = crate::backbone::site(self.graph, name)?;
        while let Some(&next) = self.current.get(&v) {
            v = next;
        }
        Ok(v)
    }

    /// Puts `build` between a site and its readers.
    fn insert_after(
        &mut self,
        name: &str,
        build: impl FnOnce(&mut Graph, ValueId) -> Result<ValueId, GraphError>,
    ) -> Result<(), GraphError> {
        let v = self.site(name)?;
        let new = self.graph.insert_after(v, build)?;
        self.current.insert(v, new);
        Ok(())
    }

    fn linear(&self, layer: usize, role: Role) -> Result<LinearSite, GraphError> {
        let missing = || GraphError::Undefined(format!("layer {layer} {}", role.name()));
        self.backbone.sites.linear(layer, role).cloned().ok_or_else(missing)
    }

    fn layer(&self, layer: usize) -> Result<crate::graph::sites::LayerSite, GraphError> {
        let missing = || GraphError::Undefined(format!("layer {layer}"));
        self.backbone.sites.layers.get(layer).cloned().ok_or_else(missing)
    }
}
