use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head, layers,
    need_blocks,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;
use crate::graph::sites::Role;

/// (IA)^3 (Liu et al. 2022, arXiv 2205.05638): trained gains on keys, values and the hidden
/// feed-forward activations, all of them ones at the start.
pub(super) struct Ia3;

impl Method for Ia3 {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn summary(&self) -> &'static str {
        "gains on keys, values and feed-forward activations (arXiv 2205.05638)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "layers", default: "all", help: "all, or last-K" }]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-2, weight_decay: 0.0, epochs: 30 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        need_blocks(backbone, self.name())?;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for layer in layers(backbone, settings)? {
            for role in [Role::Key, Role::Value, Role::FfnDown] {
                let site =
                    backbone.sites.linear(layer, role).ok_or_else(|| MethodError::Backbone {
                        method: "ia3",
                        needs: format!("a {} layer in block {layer}", role.name()),
                        backbone: backbone.name.clone(),
                    })?;
                let on_input = role == Role::FfnDown;
                let width = if on_input { site.inputs } else { site.outputs };
                let tensor = format!("ia3.{layer}.{}", role.name());
                tensors.push(TensorSpec::new(&tensor, &[width], Init::Ones));
                attachments.push(Attachment::Scale { layer, role, tensor, on_input });
            }
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}
