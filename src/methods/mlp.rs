use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head, pooling,
};
use crate::attach::{Attachment, Classifier};
use crate::backbone::Manifest;

/// MLP-k (Jia et al. 2022, arXiv 2203.12119): k layers on the frozen feature instead of one. Layer
/// normalisation takes the place of batch normalisation, which fails on batches of one.
pub(super) struct Mlp;

impl Method for Mlp {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn summary(&self) -> &'static str {
        "k-layer classifier on the frozen feature (MLP-k)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting { name: "k", default: "3", help: "layers, the classifier included" }]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-3, weight_decay: 0.01, epochs: 100 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let hidden = settings.count("k", 2..=8)? - 1;
        let (mut tensors, _) = head(backbone, classes, settings)?;
        let pooling = pooling(backbone, settings)?;
        let d = tensors.first().and_then(|t| t.shape.get(1).copied()).unwrap_or(0);
        for j in 0..hidden {
            for (part, shape, init) in [
                ("weight", &[d, d][..], Init::FanIn(d)),
                ("bias", &[d], Init::Zeros),
                ("norm.weight", &[d], Init::Ones),
                ("norm.bias", &[d], Init::Zeros),
            ] {
                tensors.push(TensorSpec::new(format!("head.hidden.{j}.{part}"), shape, init));
            }
        }
        let attachments =
            vec![Attachment::Head { pooling, classifier: Classifier::Mlp { hidden } }];
        Ok(Plan::new(tensors, attachments))
    }
}
