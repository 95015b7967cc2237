use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
    need_blocks,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;
use crate::graph::sites::CnnSites;

/// Partial-k (Yosinski et al. 2014, arXiv 1411.1792): the weights of the last k blocks themselves, of
/// transformers with the final normalisation, of convolutional networks with all convolutions behind
/// them. What runs before them is computed once per example.
pub(super) struct Partial;

impl Method for Partial {
    fn name(&self) -> &'static str {
        "partial"
    }

    fn summary(&self) -> &'static str {
        "the last k blocks themselves (partial-k, arXiv 1411.1792)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "k", default: "1", help: "how many of the last blocks" }]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 3e-4, weight_decay: 0.01, epochs: 20 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let sites = &backbone.sites;
        if let Some(cnn) = &sites.cnn {
            return last_convolutions(backbone, cnn, classes, settings);
        }
        need_blocks(backbone, self.name())?;
        let count = sites.layers.len();
        let first = count - settings.count("k", 1..=count)?;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for l in sites.linears.iter().filter(|l| l.layer >= first) {
            let prefix = format!("partial.{}.{}", l.layer, l.role.name());
            let (weight, bias) =
                (Init::LinearWeight(l.layer, l.role), Init::LinearBias(l.layer, l.role));
            let shape = [l.outputs, l.inputs];
            tensors.push(TensorSpec::new(format!("{prefix}.weight"), &shape, weight));
            tensors.push(TensorSpec::new(format!("{prefix}.bias"), &[l.outputs], bias));
            attachments.push(Attachment::ReplaceLinear { layer: l.layer, role: l.role, prefix });
        }
        for (i, n) in sites.norms.iter().enumerate() {
            let layer = n.name.split_once('.').and_then(|(l, _)| l.parse::<usize>().ok());
            if n.name != "final_norm" && layer.is_none_or(|l| l < first) {
                continue;
            }
            let prefix = format!("partial.{}", n.name);
            for (part, init) in [("weight", Init::NormWeight(i)), ("bias", Init::NormBias(i))] {
                tensors.push(TensorSpec::new(format!("{prefix}.{part}"), &[sites.width], init));
            }
            attachments.push(Attachment::ReplaceNorm { name: n.name.clone(), prefix });
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}

/// The convolutions of the last k blocks, and those behind them.
fn last_convolutions(
    backbone: &Manifest,
    cnn: &CnnSites,
    classes: usize,
    settings: &Settings,
) -> Result<Plan, MethodError> {
    let count = cnn.blocks.len();
    if count == 0 {
        let (needs, backbone) = ("residual blocks".into(), backbone.name.clone());
        return Err(MethodError::Backbone { method: Partial.name(), needs, backbone });
    }
    let block = count - settings.count("k", 1..=count)?;
    let first = cnn.convs.iter().position(|c| c.block.is_some_and(|b| b >= block));
    let (mut tensors, head) = head(backbone, classes, settings)?;
    let mut attachments = Vec::new();
    for (conv, site) in cnn.convs.iter().enumerate().skip(first.unwrap_or(0)) {
        let prefix = format!("partial.conv.{conv}");
        let shape = [&[site.outputs, site.inputs / site.groups], &site.kernel[..]].concat();
        let weight = TensorSpec::new(format!("{prefix}.weight"), &shape, Init::ConvWeight(conv));
        let bias = Init::ConvBias(conv);
        tensors.extend([weight, TensorSpec::new(format!("{prefix}.bias"), &shape[..1], bias)]);
        attachments.push(Attachment::ReplaceConv { conv, prefix });
    }
    attachments.push(head);
    Ok(Plan::new(tensors, attachments))
}
