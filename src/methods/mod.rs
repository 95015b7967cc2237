//! Tuning methods, one file each: which tensors a method trains, what they attach to, and how it
//! is served.

mod adapter;
mod bias;
mod error;
mod ia3;
mod l2p;
mod linear;
mod lite_residual;
mod lora;
mod mlp;
mod p_tuning_v2;
mod partial;
mod plan;
mod prefix_tuning;
mod prompt_tuning;
mod prototypes;
mod settings;
mod side;
mod tip_adapter;
mod vpt_deep;
mod vpt_shallow;

pub use error::MethodError;
pub use plan::{Hyperparameters, Init, Plan, Purpose, Reparameterisation, TensorSpec, Training};
pub use settings::{Setting, Settings};

use crate::attach::{Attachment, Classifier};
use crate::backbone::{Manifest, Pooling};
use crate::graph::sites::Modality;

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

    /// The settings of a delta made of `rows` rows; with `grows` they come on top of those that
    /// `settings` tell of.
    ///
    /// # Errors
    /// [`MethodError::Setting`] if a setting cannot be chosen.
    fn settle(
        &self,
        settings: Settings,
        rows: usize,
        grows: bool,
    ) -> Result<Settings, MethodError> {
        let _ = (rows, grows);
        Ok(settings)
    }

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
        &lite_residual::LiteResidualMethod,
        &side::Side,
        &l2p::L2p,
        &prototypes::Prototypes,
        &tip_adapter::TipAdapter,
        &tip_adapter::TipAdapterF,
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

/// Refuses a backbone that is no transformer over the patches of a picture or a sound.
fn need_patches(method: &'static str, backbone: &Manifest) -> Result<(), MethodError> {
    if backbone.sites.modality != Modality::Text && !backbone.sites.layers.is_empty() {
        return Ok(());
    }
    let (needs, backbone) =
        ("a transformer over pictures or sounds".to_owned(), backbone.name.clone());
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
