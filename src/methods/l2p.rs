use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Setting, Settings, TensorSpec, head,
    need_patches, pooling,
};
use crate::attach::{Attachment, Classifier};
use crate::backbone::Manifest;

/// L2P, Learning to Prompt (Wang et al. 2021, arXiv 2112.08654): a pool of M prompts; every example
/// gets the N whose keys are nearest to its feature. For tasks that come one after another, their
/// classes with them: `calibrate --from` lets the head grow.
///
/// Prompts are chosen for each example alone. (The authors' code votes over the test batch, which
/// tells the model which task the batch is of.) Keys start as queries of rows, so that different
/// inputs choose different prompts from the beginning. The paper reads the class from the mean of
/// the prompts' outputs; a small backbone that never learned to put anything there does better with
/// its own feature, so that is the default.
pub(super) struct L2p;

impl Method for L2p {
    fn name(&self) -> &'static str {
        "l2p"
    }

    fn summary(&self) -> &'static str {
        "prompts chosen from a pool by example, for classes that come later (arXiv 2112.08654)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting { name: "prompts", default: "10", help: "prompts in the pool M" },
            Setting { name: "rows", default: "5", help: "rows of a prompt" },
            Setting { name: "top", default: "2", help: "prompts that an example gets N" },
            Setting {
                name: "pull",
                default: "0.1",
                help: "weight of the term that draws keys to the queries that chose them",
            },
            Setting {
                name: "feature",
                default: "backbone",
                help: "backbone (as `pooling` says), or rows (the mean of the prompts' outputs)",
            },
        ]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 3e-4, weight_decay: 0.0, epochs: 20 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        need_patches("l2p", backbone)?;
        let count = settings.count("prompts", 1..=1024)?;
        let rows = settings.count("rows", 1..=256)?;
        let top = settings.count("top", 1..=count)?;
        let from_rows = settings.choice("feature", &["rows", "backbone"])? == "rows";
        let query = pooling(backbone, settings)?;
        let d = backbone.sites.width;
        let (mut tensors, mut head) = head(backbone, classes, settings)?;
        if let (true, Some(weight)) = (from_rows, tensors.first_mut()) {
            // The rows are of the hidden state, which may be wider than the model's own output.
            weight.shape = vec![classes, d];
            head = Attachment::Head { pooling: query, classifier: Classifier::Linear };
        }
        let keys = [count, backbone.feature_width(query)];
        tensors.extend([
            TensorSpec::new("pool.prompts", &[count, rows, d], Init::TokenRows).no_decay(),
            TensorSpec::new("pool.keys", &keys, Init::Queries).no_decay(),
        ]);
        let pool = Attachment::Pool {
            prompts: "pool.prompts".into(),
            keys: "pool.keys".into(),
            top,
            query,
            from_rows,
        };
        let pull = settings.positive("pull")?;
        Ok(Plan { mask_classes: true, pull, ..Plan::new(tensors, vec![pool, head]) })
    }
}
