use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Purpose, Setting, Settings, TensorSpec,
    Training, pooling,
};
use crate::attach::{Attachment, Classifier};
use crate::backbone::Manifest;

/// Without rows to count, `edge-tune methods` shows this many keys per class.
const SHOTS: usize = 16;
/// Class numbers are served in f16, which tells this many apart.
const MOST_CLASSES: usize = 2048;

const SETTINGS: &[Setting] = &[
    Setting {
        name: "keys",
        default: "auto",
        help: "number of cached rows; auto: all that are trained on (leave it there)",
    },
    Setting {
        name: "alpha",
        default: "1.17",
        help: "weight of the cache; searched if rows are held out",
    },
    Setting {
        name: "beta",
        default: "1",
        help: "sharpness of the cache; searched if rows are held out",
    },
    Setting {
        name: "scale",
        default: "100",
        help: "inverse temperature of the cosines with the class vectors",
    },
];

/// Tip-Adapter (Zhang et al. 2021, arXiv 2111.03930): the training rows themselves vote, each for its
/// class, by how near the input is. The class vectors, a text classifier in the paper, are class
/// means here.
pub(super) struct TipAdapter;

/// Tip-Adapter-F: the same, and the keys are trained.
pub(super) struct TipAdapterF;

impl Method for TipAdapter {
    fn name(&self) -> &'static str {
        "tip-adapter"
    }

    fn summary(&self) -> &'static str {
        "training rows vote by nearness; no training, classes can be added later (arXiv 2111.03930)"
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 0.0, weight_decay: 0.0, epochs: 1 }
    }

    fn settle(
        &self,
        settings: Settings,
        rows: usize,
        grows: bool,
    ) -> Result<Settings, MethodError> {
        count_keys(settings, rows, grows)
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        Ok(Plan { training: Training::Features, ..cache_plan(backbone, classes, settings)? })
    }
}

impl Method for TipAdapterF {
    fn name(&self) -> &'static str {
        "tip-adapter-f"
    }

    fn summary(&self) -> &'static str {
        "tip-adapter with trained keys (arXiv 2111.03930)"
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-3, weight_decay: 0.01, epochs: 20 }
    }

    fn settle(
        &self,
        settings: Settings,
        rows: usize,
        grows: bool,
    ) -> Result<Settings, MethodError> {
        count_keys(settings, rows, grows)
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        cache_plan(backbone, classes, settings)
    }
}

/// One key for every row, and for every row that the delta was made of before.
fn count_keys(settings: Settings, rows: usize, grows: bool) -> Result<Settings, MethodError> {
    let before = match (grows, settings.text("keys")?) {
        (false, "auto") => 0,
        (false, _) => return Err(settings.bad("keys", "auto: the number of rows is known")),
        (true, _) => settings.count("keys", 1..=usize::MAX)?,
    };
    settings.with("keys", (before + rows).to_string())
}

fn cache_plan(
    backbone: &Manifest,
    classes: usize,
    settings: &Settings,
) -> Result<Plan, MethodError> {
    if classes > MOST_CLASSES {
        return Err(MethodError::Classes { classes, most: MOST_CLASSES });
    }
    let keys = match settings.text("keys")? {
        "auto" => classes * SHOTS,
        _ => settings.count("keys", 1..=1 << 24)?,
    };
    let pooling = pooling(backbone, settings)?;
    let width = backbone.feature_width(pooling);
    let (alpha, beta) = (settings.positive("alpha")?, settings.positive("beta")?);
    let tensors = vec![
        TensorSpec::new("cache.keys", &[keys, width], Init::RowFeatures).no_decay(),
        TensorSpec::new("cache.labels", &[keys], Init::RowLabels).purpose(Purpose::Numbers),
        TensorSpec::new("cache.classes", &[classes, width], Init::UnitClassMeans)
            .purpose(Purpose::Fixed),
        TensorSpec::new("cache.alpha", &[1], Init::CacheWeight(alpha)).purpose(Purpose::Fixed),
        TensorSpec::new("cache.beta", &[1], Init::CacheSharpness(beta)).purpose(Purpose::Fixed),
    ];
    let classifier = Classifier::Cache { scale: settings.positive("scale")? };
    Ok(Plan::new(tensors, vec![Attachment::Head { pooling, classifier }]))
}
