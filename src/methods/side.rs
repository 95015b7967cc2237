use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head, pooling,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;
use crate::graph::sites::Modality;

/// Side-Tuning (Zhang et al. 2019, arXiv 1912.13503): a small network of its own on the same picture
/// or sound, added to the frozen feature. No gradient enters the backbone, which runs once per
/// example.
pub(super) struct Side;

impl Method for Side {
    fn name(&self) -> &'static str {
        "side"
    }

    fn summary(&self) -> &'static str {
        "a small convolutional network beside the backbone (Side-Tuning, arXiv 1912.13503)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting {
                name: "channels",
                default: "16",
                help: "channels of the first convolution; every next one has twice as many",
            },
            Setting { name: "layers", default: "3", help: "convolutions, each with stride 2" },
        ]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 3e-3, weight_decay: 0.01, epochs: 50 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let channels = match backbone.sites.modality {
            // RGB, unless the backbone says otherwise.
            Modality::Image => backbone.preprocess.as_ref().map_or(3, |spec| spec.shape()[0]),
            Modality::Audio => 1,
            Modality::Text => {
                let (needs, backbone) = ("pictures or sounds".into(), backbone.name.clone());
                return Err(MethodError::Backbone { method: self.name(), needs, backbone });
            }
        };
        let first = settings.count("channels", 1..=256)?;
        let layers = settings.count("layers", 1..=6)?;
        let pooling = pooling(backbone, settings)?;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut inputs = channels;
        for j in 0..layers {
            let outputs = first << j;
            let fan = Init::FanIn(inputs * 9);
            let shape = [outputs, inputs, 3, 3];
            tensors.push(TensorSpec::new(format!("side.{j}.weight"), &shape, fan));
            tensors.push(TensorSpec::new(format!("side.{j}.bias"), &[outputs], Init::Zeros));
            inputs = outputs;
        }
        let shape = [backbone.feature_width(pooling), inputs];
        tensors.extend([
            TensorSpec::new("side.projection.weight", &shape, Init::FanIn(inputs)),
            TensorSpec::new("side.alpha", &[1], Init::Zeros),
        ]);
        Ok(Plan::new(tensors, vec![Attachment::Side { layers, pooling }, head]))
    }
}
