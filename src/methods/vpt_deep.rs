use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
    need_patches,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;

/// VPT-deep (Jia et al. 2022, arXiv 2203.12119): P fresh rows `prompt.{i} [P, d]` at the input of
/// every block. They are dropped behind the block, so all that they do is to be attended to: they
/// run as keys and values, which is exact and needs no prompt rows in queries and feed-forward part.
pub(super) struct VptDeep;

impl Method for VptDeep {
    fn name(&self) -> &'static str {
        "vpt-deep"
    }

    fn summary(&self) -> &'static str {
        "trained rows at the input of every block (arXiv 2203.12119)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting { name: "rows", default: "10", help: "rows P per block" },
            Setting {
                name: "form",
                default: "kv",
                help: "kv: as keys and values; rows: in the sequence (slower, same result)",
            },
        ]
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
        need_patches("vpt-deep", backbone)?;
        let count = settings.count("rows", 1..=1024)?;
        let in_sequence = settings.choice("form", &["kv", "rows"])? == "rows";
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for layer in 0..backbone.sites.layers.len() {
            let rows = format!("prompt.{layer}");
            let shape = [count, backbone.sites.width];
            // Rows are no weights: decay would pull them away from where real activations lie.
            tensors.push(TensorSpec::new(&rows, &shape, Init::LayerRows(layer)).no_decay());
            attachments.push(Attachment::DeepRows { layer, rows, count, in_sequence });
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}
