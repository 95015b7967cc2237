use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
    need_blocks,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;

/// Prompt tuning (Lester et al. 2021, arXiv 2104.08691): P trained rows `prompt [P, d]` in front
/// of the word embeddings.
pub(super) struct PromptTuning;

impl Method for PromptTuning {
    fn name(&self) -> &'static str {
        "prompt-tuning"
    }

    fn summary(&self) -> &'static str {
        "trained rows in front of the embedded tokens (arXiv 2104.08691)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "rows", default: "20", help: "number of rows P" }]
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
        prompt_plan(backbone, classes, settings)
    }
}

/// Rows at the token site, and a head.
pub(super) fn prompt_plan(
    backbone: &Manifest,
    classes: usize,
    settings: &Settings,
) -> Result<Plan, MethodError> {
    let room = backbone.max_length.saturating_sub(8).max(1);
    let count = settings.count("rows", 1..=room)?;
    let (mut tensors, head) = head(backbone, classes, settings)?;
    tensors.push(TensorSpec::new("prompt", &[count, backbone.sites.width], Init::TokenRows));
    let rows = Attachment::TokenRows { rows: "prompt".into(), count };
    let position_rows = if backbone.sites.positions.is_some() { count } else { 0 };
    Ok(Plan { position_rows, ..Plan::new(tensors, vec![rows, head]) })
}
