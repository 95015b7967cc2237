use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
};
use crate::attach::{Attachment, OffsetSite};
use crate::backbone::Manifest;
use crate::graph::sites::Role;

/// Bias tuning (BitFit, Ben Zaken et al. 2021, arXiv 2106.10199): an offset on the output of every
/// linear layer, normalisation and convolution.
pub(super) struct Bias;

impl Method for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn summary(&self) -> &'static str {
        "offsets on linear layers, normalisations and convolutions (BitFit, arXiv 2106.10199)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting {
                name: "targets",
                default: "all",
                help: "all, or query-ffn (the query and the wide feed-forward layers alone)",
            },
            Setting {
                name: "key",
                default: "false",
                help: "offset the keys too; softmax cancels it, so it learns nothing by itself",
            },
        ]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 3e-3, weight_decay: 0.0, epochs: 30 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let all = settings.choice("targets", &["all", "query-ffn"])? == "all";
        let key = settings.flag("key")?;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        let mut add = |name: String, width, site| {
            tensors.push(TensorSpec::new(&name, &[width], Init::Zeros));
            attachments.push(Attachment::Offset { site, tensor: name });
        };
        let sites = &backbone.sites;
        for l in &sites.linears {
            let wanted = match l.role {
                Role::Query | Role::FfnUp => true,
                Role::Key => key,
                _ => all,
            };
            if wanted {
                let name = format!("bias.{}.{}", l.layer, l.role.name());
                add(name, l.outputs, OffsetSite::Linear(l.layer, l.role));
            }
        }
        for n in sites.norms.iter().filter(|_| all) {
            add(format!("bias.{}", n.name), sites.width, OffsetSite::Norm(n.name.clone()));
        }
        conv_offsets(backbone, &mut tensors, &mut attachments);
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}

/// An offset on every convolution.
pub(super) fn conv_offsets(
    backbone: &Manifest,
    tensors: &mut Vec<TensorSpec>,
    attachments: &mut Vec<Attachment>,
) {
    for (i, c) in backbone.sites.cnn.iter().flat_map(|c| &c.convs).enumerate() {
        let tensor = format!("bias.conv.{i}");
        tensors.push(TensorSpec::new(&tensor, &[c.outputs], Init::Zeros));
        attachments.push(Attachment::Offset { site: OffsetSite::Conv(i), tensor });
    }
}
