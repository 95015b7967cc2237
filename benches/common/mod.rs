//! What the benchmarks share: the bundled backbone and deltas that nobody had to train.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edge_tune::data::Encoded;
use edge_tune::delta::{Delta, Metadata};
use edge_tune::engine::Engine;
use edge_tune::engine::tract::TractEngine;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{Model, Sample};
use edge_tune::tensor::Tensor;

/// The bundled backbone on `threads` threads.
#[allow(dead_code)]
pub fn model(threads: usize) -> Model {
    model_on(Arc::new(TractEngine::with_threads(threads)))
}

/// The backbone in `EDGE_TUNE_BACKBONE`, or the bundled one.
#[allow(dead_code)]
pub fn chosen(engine: Arc<dyn Engine>) -> Model {
    match std::env::var_os("EDGE_TUNE_BACKBONE") {
        Some(dir) => Model::open(Path::new(&dir), engine).expect("a backbone"),
        None => model_on(engine),
    }
}

/// The bundled backbone on an engine.
pub fn model_on(engine: Arc<dyn Engine>) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/minilm-l6");
    Model::open(&dir, engine).expect("the bundled backbone")
}

/// A delta of `method` with small values, different for every `seed`.
pub fn delta(model: &Model, method: &str, set: &[(&str, &str)], seed: u64) -> Delta {
    let backbone = model.backbone();
    let method = methods::find(method).expect("a method");
    let settings = Settings::resolve(method, set.iter().copied()).expect("its settings");
    let labels = ["a", "b", "c", "d"];
    let plan = method.plan(backbone.manifest(), labels.len(), &settings).expect("it fits");
    let mut x = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed + 1);
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((x >> 40) as f32 / 8_388_608.0 - 1.0) * 0.05
    };
    let tensors: BTreeMap<String, Tensor> = plan
        .tensors
        .iter()
        .map(|t| {
            let values: Vec<f32> = (0..t.len()).map(|_| next()).collect();
            let tensor = Tensor::new(&t.shape, &values).expect("its size").to_f16();
            (t.name.clone(), tensor)
        })
        .collect();
    let mut metadata = Metadata::new(method.name(), backbone.digest(), &labels);
    metadata.config = settings.to_json();
    metadata.task = format!("task-{seed}");
    Delta::new(metadata, tensors).expect("a delta")
}

/// A text of `tokens` tokens.
#[allow(dead_code)]
pub fn text(tokens: usize) -> Sample {
    let ids: Vec<i64> = (0..tokens as i64).map(|i| 1000 + (i * 37) % 9000).collect();
    Sample::Text(Encoded { type_ids: vec![0; ids.len()], ids })
}

/// The middle of `times`.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
