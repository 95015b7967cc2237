use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head, layers,
    need_blocks,
};
use crate::attach::{Activation, Attachment, Place};
use crate::backbone::Manifest;

/// Bottleneck adapters on sublayer outputs: behind the feed-forward block (Pfeiffer et al. 2020,
/// arXiv 2005.00247) or behind attention and feed-forward block (Houlsby et al. 2019, arXiv
/// 1902.00751). Only the up projection starts at zero: with both at zero nothing would ever learn.
pub(super) struct Adapter;

impl Method for Adapter {
    fn name(&self) -> &'static str {
        "adapter"
    }

    fn summary(&self) -> &'static str {
        "bottleneck networks on sublayer outputs (arXiv 2005.00247, 1902.00751)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting {
                name: "variant",
                default: "pfeiffer",
                help: "pfeiffer (one per layer) or houlsby (two per layer)",
            },
            Setting { name: "bottleneck", default: "auto", help: "width m; auto is d / 16" },
            Setting { name: "activation", default: "relu", help: "relu or gelu" },
            Setting { name: "layers", default: "all", help: "all, or last-K" },
        ]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-3, weight_decay: 0.01, epochs: 30 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        need_blocks(backbone, self.name())?;
        let d = backbone.sites.width;
        let m = match settings.text("bottleneck")? {
            "auto" => (d / 16).max(4),
            _ => settings.count("bottleneck", 1..=d)?,
        };
        let places: &[Place] = match settings.choice("variant", &["pfeiffer", "houlsby"])? {
            "houlsby" => &[Place::Attention, Place::Ffn],
            _ => &[Place::Ffn],
        };
        let activation = match settings.choice("activation", &["relu", "gelu"])? {
            "gelu" => Activation::Gelu,
            _ => Activation::Relu,
        };
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for layer in layers(backbone, settings)? {
            for &place in places {
                let prefix = format!("adapter.{layer}.{}", place.name());
                for (part, shape, init) in [
                    ("down.weight", &[m, d][..], Init::FanIn(d)),
                    ("down.bias", &[m], Init::Zeros),
                    ("up.weight", &[d, m], Init::Zeros),
                    ("up.bias", &[d], Init::Zeros),
                ] {
                    tensors.push(TensorSpec::new(format!("{prefix}.{part}"), shape, init));
                }
                attachments.push(Attachment::Branch { layer, place, activation, prefix });
            }
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}
