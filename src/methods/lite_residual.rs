use super::bias::conv_offsets;
use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
};
use crate::attach::{Attachment, LiteResidual};
use crate::backbone::Manifest;

/// TinyTL (Cai et al. 2020, arXiv 2007.11622): light branches beside the blocks of a convolutional
/// network, on halved maps, and offsets on its convolutions. The branches start at nothing. The
/// authors train theirs on ImageNet first; here they are random.
pub(super) struct LiteResidualMethod;

impl Method for LiteResidualMethod {
    fn name(&self) -> &'static str {
        "lite-residual"
    }

    fn summary(&self) -> &'static str {
        "light branches beside the blocks of a CNN, and offsets (TinyTL, arXiv 2007.11622)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting { name: "kernel", default: "5", help: "largest side of a kernel, odd" },
            Setting { name: "groups", default: "2", help: "groups of the first convolution" },
            Setting {
                name: "bias",
                default: "true",
                help: "train offsets of all convolutions too (L+B of the paper)",
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
        let lacks = |needs: &str| {
            let (needs, backbone) = (needs.to_owned(), backbone.name.clone());
            MethodError::Backbone { method: self.name(), needs, backbone }
        };
        let cnn = backbone.sites.cnn.as_ref().filter(|c| !c.blocks.is_empty());
        let cnn = cnn.ok_or_else(|| lacks("blocks of convolutions"))?;
        let kernel = settings.count("kernel", 1..=31)?;
        if kernel.is_multiple_of(2) {
            return Err(settings.bad("kernel", "an odd number"));
        }
        let groups = settings.count("groups", 1..=1024)?;
        let with_bias = settings.flag("bias")?;
        let (mut tensors, head) = head(backbone, classes, settings)?;
        let mut attachments = Vec::new();
        for (number, block) in cnn.blocks.iter().enumerate() {
            let prefix = format!("lite.{number}");
            // The offset of the main branch covers the last shift.
            let branch =
                LiteResidual::new((number, block), prefix.clone(), groups, kernel, !with_bias)
                    .ok_or_else(|| lacks("pictures of a fixed size"))?;
            let (c, o) = (block.inputs, block.outputs);
            let (per_group, k) = (c / branch.groups, branch.kernel);
            let mut add = |part: &str, shape: &[usize], init| {
                tensors.push(TensorSpec::new(format!("{prefix}.{part}"), shape, init));
            };
            add("conv1.weight", &[c, per_group, k, k], Init::FanIn(per_group * k * k));
            add("norm1.weight", &[c], Init::Ones);
            add("norm1.bias", &[c], Init::Zeros);
            add("conv2.weight", &[o, c, 1, 1], Init::FanIn(c));
            add("norm2.weight", &[o], Init::Zeros);
            if branch.shift {
                add("norm2.bias", &[o], Init::Zeros);
            }
            attachments.push(Attachment::LiteResidual(branch));
        }
        if with_bias {
            conv_offsets(backbone, &mut tensors, &mut attachments);
        }
        attachments.push(head);
        Ok(Plan::new(tensors, attachments))
    }
}
