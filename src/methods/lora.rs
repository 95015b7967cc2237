use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head, layers,
    need_blocks,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;
use crate::graph::sites::Role;

/// LoRA (Hu et al. 2021, arXiv 2106.09685): `y + (alpha / r) B A x` on chosen linear layers. A
/// starts random and B at zero, so the start is the backbone itself.
pub(super) struct Lora;

impl Method for Lora {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn summary(&self) -> &'static str {
        "low-rank updates of linear layers (arXiv 2106.09685)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting { name: "rank", default: "8", help: "rank r" },
            Setting { name: "alpha", default: "16", help: "scale is alpha / rank" },
            Setting {
                name: "targets",
                default: "query,value",
                help: "linear layers: query, key, value, attention_output, ffn_up, ffn_down",
            },
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
        let rank = settings.count("rank", 1..=256)?;
        let scale = settings.positive("alpha")? / rank as f32;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for layer in layers(backbone, settings)? {
            for role in targets(settings)? {
                let site =
                    backbone.sites.linear(layer, role).ok_or_else(|| MethodError::Backbone {
                        method: "lora",
                        needs: format!("a {} layer in block {layer}", role.name()),
                        backbone: backbone.name.clone(),
                    })?;
                let name = |part: &str| format!("lora.{layer}.{}.{part}", role.name());
                let (a, b) = (name("a"), name("b"));
                let start = Init::FanIn(site.inputs);
                tensors.push(TensorSpec::new(&a, &[rank, site.inputs], start));
                tensors.push(TensorSpec::new(&b, &[site.outputs, rank], Init::Zeros));
                attachments.push(Attachment::LowRank { layer, role, a, b, scale });
            }
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}

fn targets(settings: &Settings) -> Result<Vec<Role>, MethodError> {
    let names = Role::ALL.map(Role::name).join(", ");
    let bad = || settings.bad("targets", format!("a comma-separated list of {names}"));
    let parse = |t: &str| Role::ALL.into_iter().find(|r| r.name() == t.trim()).ok_or_else(bad);
    let mut roles: Vec<Role> =
        settings.text("targets")?.split(',').map(parse).collect::<Result<_, _>>()?;
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}
