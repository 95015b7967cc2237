use super::prompt_tuning::prompt_plan;
use super::{Hyperparameters, Method, MethodError, Plan, Setting, Settings, need_patches};
use crate::backbone::Manifest;

/// VPT-shallow (Jia et al. 2022, arXiv 2203.12119): P trained rows `prompt [P, d]` between the class
/// row and the patches, behind the position embedding.
pub(super) struct VptShallow;

impl Method for VptShallow {
    fn name(&self) -> &'static str {
        "vpt-shallow"
    }

    fn summary(&self) -> &'static str {
        "trained rows between class row and patches (arXiv 2203.12119)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "rows", default: "10", help: "number of rows P" }]
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
        need_patches("vpt-shallow", backbone)?;
        prompt_plan(backbone, classes, settings)
    }
}
