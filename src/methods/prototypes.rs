use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Purpose, Setting, Settings, TensorSpec,
    Training, pooling,
};
use crate::attach::{Attachment, Classifier};
use crate::backbone::Manifest;

/// Nearest class mean on unit-length features (Snell et al. 2017, arXiv 1703.05175): nothing is
/// trained, and the stored counts allow examples and classes to be added later.
pub(super) struct Prototypes;

impl Method for Prototypes {
    fn name(&self) -> &'static str {
        "prototypes"
    }

    fn summary(&self) -> &'static str {
        "nearest class mean; no training, classes can be added later (arXiv 1703.05175)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[Setting {
            name: "scale",
            default: "20",
            help: "inverse temperature of the cosine scores; only confidences depend on it",
        }]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 0.0, weight_decay: 0.0, epochs: 1 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        let pooling = pooling(backbone, settings)?;
        let width = backbone.feature_width(pooling);
        let tensors = vec![
            TensorSpec::new("prototypes.mean", &[classes, width], Init::ClassMeans),
            TensorSpec::new("prototypes.count", &[classes], Init::ClassCounts)
                .purpose(Purpose::Counts),
        ];
        let classifier = Classifier::Prototypes { scale: settings.positive("scale")? };
        let head = Attachment::Head { pooling, classifier };
        Ok(Plan { training: Training::Features, ..Plan::new(tensors, vec![head]) })
    }
}
