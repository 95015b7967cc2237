//! Tuning methods, one file each: which tensors a method trains, what they attach to, and how it
//! is served.

mod adapter;
mod bias;
mod error;
mod ia3;
mod linear;
mod lora;
mod mlp;
mod p_tuning_v2;
mod partial;
mod prefix_tuning;
mod prompt_tuning;
mod prototypes;
mod settings;
mod vpt_deep;
mod vpt_shallow;

use std::collections::HashMap;

pub use error::MethodError;
pub use settings::{Setting, Settings};

use crate::attach::{Attachment, Classifier};
use crate::backbone::{Manifest, Pooling};
use crate::graph::sites::{Modality, Role};
use crate::graph::{Graph, GraphError, ValueId};

/// A recipe: trainable tensors, attachments and defaults.
pub trait Method: Send + Sync {
    /// The name on the command line and in delta files.
    fn name(&self) -> &'static str;

    /// One line for `edge-tune methods`, with the paper.
    fn summary(&self) -> &'static str;

    /// What can be set, apart from [`COMMON_SETTINGS`].
    fn settings(&self) -> &'static [Setting];

    /// The defaults for training.
    fn hyperparameters(&self) -> Hyperparameters;

    /// The plan on `backbone` for `classes` classes.
    ///
    /// # Errors
    /// [`MethodError`] if a setting is out of range or the backbone lacks a site.
    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError>;
}

/// Settings that every method has.
pub const COMMON_SETTINGS: &[Setting] = &[Setting {
    name: "pooling",
    default: "auto",
    help: "feature: mean or cls of the last hidden state, output (the model's own), or auto (the backbone's)",
}];

/// Defaults for training, tuned for few shots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Passes over the data.
    pub epochs: usize,
}

/// How a delta's tensors come about.
pub enum Training {
    /// By gradient descent on [`Plan::tensors`].
    Direct,
    /// By gradient descent on other tensors, from which [`Plan::tensors`] are computed.
    Through(Box<dyn Reparameterisation>),
    /// As class means, without gradients.
    ClassMeans,
}

/// Trains other tensors than those that are served, and disappears afterwards.
pub trait Reparameterisation: Send + Sync {
    /// What is trained.
    fn tensors(&self) -> Vec<TensorSpec>;

    /// Adds the nodes that compute served tensors from trained ones; both by name.
    ///
    /// # Errors
    /// [`GraphError`] if a tensor is missing.
    fn expand(
        &self,
        graph: &mut Graph,
        trained: &HashMap<String, ValueId>,
    ) -> Result<HashMap<String, ValueId>, GraphError>;
}

/// What a method does on one backbone.
pub struct Plan {
    /// The tensors of the delta file.
    pub tensors: Vec<TensorSpec>,
    /// What they become.
    pub attachments: Vec<Attachment>,
    /// How they are found.
    pub training: Training,
    /// Rows that the method puts in front of the tokens' positions: inputs get shorter by that.
    pub position_rows: usize,
}

/// A tensor of a delta.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies: to matrices, not to biases.
    pub decay: bool,
}

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Uniform in +-1/sqrt(fan in): the default of a torch linear layer.
    FanIn(usize),
    /// Normal with standard deviation 1: the default of a torch embedding.
    Normal,
    /// Ones.
    Ones,
    /// Rows of real activations at the token site.
    TokenRows,
    /// Rows of real activations at the input of a block.
    LayerRows(usize),
    /// Rows of real keys of a layer.
    Keys(usize),
    /// Rows of real values of a layer.
    Values(usize),
    /// The frozen weight of a linear layer.
    LinearWeight(usize, Role),
    /// Its bias.
    LinearBias(usize, Role),
    /// The frozen gain of a normalisation, by its position among the sites.
    NormWeight(usize),
    /// Its shift.
    NormBias(usize),
    /// The class-mean classifier on the untrained features: weight, bias.
    HeadWeight,
    /// See [`Init::HeadWeight`].
    HeadBias,
    /// Not trained: computed from features.
    ClassMeans,
}

impl TensorSpec {
    fn new(name: impl Into<String>, shape: &[usize], init: Init) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.to_vec(), init, decay: shape.len() > 1 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Plan {
    /// Number of values in the delta file.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(TensorSpec::len).sum()
    }

    /// The tensors that gradient descent changes.
    pub fn trained(&self) -> Vec<TensorSpec> {
        match &self.training {
            Training::Through(r) => {
                let head = self.tensors.iter().filter(|t| t.name.starts_with("head.")).cloned();
                r.tensors().into_iter().chain(head).collect()
            }
            Training::Direct | Training::ClassMeans => self.tensors.clone(),
        }
    }
}

/// All methods.
pub fn all() -> &'static [&'static dyn Method] {
    &[
        &linear::Linear,
        &mlp::Mlp,
        &partial::Partial,
        &prompt_tuning::PromptTuning,
        &prefix_tuning::PrefixTuning,
        &p_tuning_v2::PTuningV2,
        &vpt_shallow::VptShallow,
        &vpt_deep::VptDeep,
        &lora::Lora,
        &ia3::Ia3,
        &bias::Bias,
        &adapter::Adapter,
        &prototypes::Prototypes,
    ]
}

/// The method of that name.
///
/// # Errors
/// [`MethodError::Unknown`] listing the names there are.
pub fn find(name: &str) -> Result<&'static dyn Method, MethodError> {
    let found = all().iter().copied().find(|m| m.name() == name);
    found.ok_or_else(|| MethodError::Unknown {
        name: name.to_owned(),
        known: all().iter().map(|m| m.name()).collect::<Vec<_>>().join(", "),
    })
}

/// The linear classifier: `head.weight [K, d]`, `head.bias [K]`, which every trained method
/// has.
fn head(
    backbone: &Manifest,
    classes: usize,
    settings: &Settings,
) -> Result<(Vec<TensorSpec>, Attachment), MethodError> {
    let pooling = pooling(backbone, settings)?;
    let d = backbone.feature_width(pooling);
    let tensors = vec![
        TensorSpec::new("head.weight", &[classes, d], Init::HeadWeight),
        TensorSpec::new("head.bias", &[classes], Init::HeadBias),
    ];
    Ok((tensors, Attachment::Head { pooling, classifier: Classifier::Linear }))
}

fn pooling(backbone: &Manifest, settings: &Settings) -> Result<Pooling, MethodError> {
    let chosen = match settings.choice("pooling", &["auto", "mean", "cls", "output"])? {
        "mean" => Pooling::Mean,
        "cls" => Pooling::Cls,
        "output" => Pooling::Output,
        _ => backbone.pooling,
    };
    match backbone.sites.lacks(chosen) {
        None => Ok(chosen),
        Some(reason) => Err(settings.bad("pooling", format!("another, as {reason}"))),
    }
}

/// Refuses a backbone without transformer blocks.
fn need_blocks(backbone: &Manifest, method: &'static str) -> Result<(), MethodError> {
    if !backbone.sites.layers.is_empty() {
        return Ok(());
    }
    let (needs, backbone) = ("transformer blocks".into(), backbone.name.clone());
    Err(MethodError::Backbone { method, needs, backbone })
}

/// Refuses a backbone that does not read pictures.
fn needs_pictures(method: &'static str, backbone: &Manifest) -> Result<(), MethodError> {
    if backbone.sites.modality == Modality::Image && !backbone.sites.layers.is_empty() {
        return Ok(());
    }
    let (needs, backbone) = ("a transformer over pictures".to_owned(), backbone.name.clone());
    Err(MethodError::Backbone { method, needs, backbone })
}

/// The layers a method works on: `all` or `last-K`.
fn layers(backbone: &Manifest, settings: &Settings) -> Result<std::ops::Range<usize>, MethodError> {
    let count = backbone.sites.layers.len();
    let text = settings.text("layers")?;
    if text == "all" {
        return Ok(0..count);
    }
    let k = text.strip_prefix("last-").and_then(|k| k.parse::<usize>().ok());
    match k.filter(|k| (1..=count).contains(k)) {
        Some(k) => Ok(count - k..count),
        None => Err(settings.bad("layers", format!("`all` or `last-1` to `last-{count}`"))),
    }
}
