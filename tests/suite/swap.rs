//! Tests: swapping tasks under load, budgets, and programs that are shared.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use edge_tune::backbone::{Prepare, prepare};
use edge_tune::delta::{Delta, Metadata};
use edge_tune::engine::{Bound, Engine, EngineError, Program};
use edge_tune::graph::{Dim, Graph};
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{Model, Prediction, Sample, Task};
use edge_tune::tensor::Tensor;

use crate::support::{engine, fixture};

const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
  "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[PAD]": 0, "[UNK]": 1, "lights": 2, "on": 3, "off": 4, "please": 5}}
}"#;

pub const TEXTS: [&str; 3] = ["lights on", "lights off please", "on"];

/// An engine that counts what it is asked for.
pub struct Counting {
    engine: Arc<dyn Engine>,
    compiled: AtomicUsize,
    bound: AtomicUsize,
}

impl Engine for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn narrowed(&self, threads: usize) -> Arc<dyn Engine> {
        self.engine.narrowed(threads)
    }

    fn compile(
        &self,
        graph: &Graph,
        pins: &[(Dim, usize)],
    ) -> Result<Arc<dyn Program>, EngineError> {
        self.compiled.fetch_add(1, Ordering::Relaxed);
        self.engine.compile(graph, pins)
    }

    fn bind(&self, tensor: &Tensor) -> Result<Arc<dyn Bound>, EngineError> {
        self.bound.fetch_add(1, Ordering::Relaxed);
        self.engine.bind(tensor)
    }
}

impl Counting {
    fn new() -> Counting {
        Counting { engine: engine(), compiled: 0.into(), bound: 0.into() }
    }

    fn counts(&self) -> (usize, usize) {
        (self.compiled.load(Ordering::Relaxed), self.bound.load(Ordering::Relaxed))
    }
}

/// A backbone of two small blocks, in `dir/backbone`.
pub fn model(dir: &Path) -> (Model, Arc<Counting>) {
    let tokenizer = dir.join("words.json");
    std::fs::write(&tokenizer, TOKENIZER).unwrap();
    let out = dir.join("backbone");
    let from = fixture("exports/bert-dynamo/model.onnx");
    let options = Prepare { tokenizer: Some(tokenizer), ..Prepare::new(from, &out) };
    prepare(&options, &*engine(), |_| ()).unwrap();
    let engine = Arc::new(Counting::new());
    (Model::open(&out, engine.clone()).unwrap(), engine)
}

/// A delta with values of its own for every `seed`.
fn delta(model: &Model, method: &str, set: &[(&str, &str)], seed: u64) -> Delta {
    let method = methods::find(method).unwrap();
    let settings = Settings::resolve(method, set.iter().copied()).unwrap();
    let labels = ["on", "off", "other"];
    let plan = method.plan(model.backbone().manifest(), labels.len(), &settings).unwrap();
    let mut x = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed + 1);
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let tensors: BTreeMap<String, Tensor> = plan
        .tensors
        .iter()
        .map(|t| {
            let values: Vec<f32> = (0..t.len()).map(|_| next()).collect();
            (t.name.clone(), Tensor::new(&t.shape, &values).unwrap().to_f16())
        })
        .collect();
    let mut metadata = Metadata::new(method.name(), model.backbone().digest(), &labels);
    metadata.config = settings.to_json();
    metadata.task = format!("task-{seed}");
    // The same bytes whenever and wherever it is made.
    metadata.created.clear();
    Delta::new(metadata, tensors).unwrap()
}

pub fn lora(model: &Model, seed: u64) -> Delta {
    delta(model, "lora", &[("rank", "4")], seed)
}

#[test]
fn every_prediction_belongs_to_one_generation() {
    const SWAPS: u64 = 100_000;
    const SWAPS_PER_PREDICTION: u64 = 25;
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let tasks: Vec<Arc<Task>> =
        (0..8).map(|seed| model.load(&lora(&model, seed)).unwrap()).collect();
    // What each task answers when nothing else goes on.
    let known: Vec<Vec<Prediction>> = tasks
        .iter()
        .map(|t| TEXTS.iter().map(|text| model.predict_with(t, 0, text).unwrap()).collect())
        .collect();
    for text in 0..TEXTS.len() {
        let scores: HashSet<Vec<u32>> =
            known.iter().map(|k| k[text].scores.iter().map(|s| s.to_bits()).collect()).collect();
        assert_eq!(scores.len(), tasks.len(), "the tasks cannot be told apart");
    }
    // One thread swaps in this order, so a generation names its task.
    let task_of = |generation: u64| (generation as usize - 1) % tasks.len();
    assert_eq!(model.swap(&tasks[0]), 1);
    let (done, wrong, predicted) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let last = thread::scope(|scope| {
        for n in 0..8 {
            let (model, known, done, wrong, predicted) =
                (&model, &known, &done, &wrong, &predicted);
            scope.spawn(move || {
                let mut latest = 0;
                for round in n.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let text = round % TEXTS.len();
                    let Ok(have) = model.predict(TEXTS[text]) else {
                        wrong.fetch_add(1, Ordering::Relaxed);
                        break;
                    };
                    let want = &known[task_of(have.generation)][text];
                    let same = have.scores == want.scores && have.task == want.task;
                    // Generations never go back for a thread that looks again.
                    if !same || have.generation < latest {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                    latest = have.generation;
                    predicted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut last = 1;
        while last < SWAPS && wrong.load(Ordering::Relaxed) == 0 {
            last += 1;
            assert_eq!(model.swap(&tasks[task_of(last)]), last);
            // Predictions keep up, so that they are spread over all swaps.
            while (predicted.load(Ordering::Relaxed) as u64) < last / SWAPS_PER_PREDICTION
                && wrong.load(Ordering::Relaxed) == 0
            {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
        last
    });
    println!("{last} swaps, {} predictions", predicted.load(Ordering::Relaxed));
    assert_eq!(wrong.into_inner(), 0, "an answer was not that of its generation");
    assert!(last >= SWAPS);
}

#[test]
fn a_swap_with_an_expectation_never_overwrites_another() {
    const EACH: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let tasks: Vec<Arc<Task>> =
        (0..4).map(|seed| model.load(&lora(&model, seed)).unwrap()).collect();
    let refused = AtomicUsize::new(0);
    let mut given: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = tasks
            .iter()
            .map(|task| {
                let (model, refused) = (&model, &refused);
                scope.spawn(move || {
                    let mut given = Vec::new();
                    while given.len() < EACH {
                        let seen = model.active().map_or(0, |a| a.0);
                        match model.compare_and_swap(seen, task) {
                            Ok(generation) => {
                                assert_eq!(generation, seen + 1);
                                given.push(generation);
                            }
                            Err(e) => {
                                assert_eq!(e.code(), "runtime.generation");
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    given
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    println!("{} refused", refused.load(Ordering::Relaxed));
    given.sort_unstable();
    let all = (4 * EACH) as u64;
    assert!(given.into_iter().eq(1..=all), "a generation was given twice");
    assert_eq!(model.active().unwrap().0, all);
    // A stale expectation is refused whoever holds it.
    let e = model.compare_and_swap(all - 1, &tasks[0]).unwrap_err();
    assert_eq!(e.code(), "runtime.generation");
    assert_eq!(model.active().unwrap().0, all);
}

#[test]
fn a_full_budget_refuses_before_anything_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (model, engine) = model(dir.path());
    let size = model.load(&lora(&model, 0)).unwrap().bytes();
    let model = model.with_budget(2 * size + size / 2);
    let first = model.load(&lora(&model, 0)).unwrap();
    let second = model.load(&lora(&model, 1)).unwrap();
    assert_eq!(model.resident_bytes(), 2 * size);
    let generation = model.swap(&first);
    let before = engine.counts();
    let e = model.load(&lora(&model, 2)).unwrap_err();
    assert_eq!(e.code(), "runtime.budget");
    // Another signature, which would need a program.
    let e = model.load(&delta(&model, "lora", &[("rank", "8")], 3)).unwrap_err();
    assert_eq!(e.code(), "runtime.budget");
    assert_eq!(engine.counts(), before, "it was loaded all the same");
    assert_eq!(model.active().unwrap().0, generation);
    assert_eq!(model.resident_bytes(), 2 * size);
    model.predict("lights on").unwrap();
    // Dropping a task makes room.
    drop(second);
    assert_eq!(model.resident_bytes(), size);
    model.load(&lora(&model, 2)).unwrap();
}

#[test]
fn threads_that_load_at_once_share_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let deltas: Vec<Delta> = (0..16).map(|seed| lora(&model, seed)).collect();
    let size = model.load(&deltas[0]).unwrap().bytes();
    let model = model.with_budget(5 * size);
    let loaded: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = deltas.iter().map(|d| scope.spawn(|| model.load(d).ok())).collect();
        threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(loaded.len(), 5);
    assert_eq!(model.resident_bytes(), 5 * size);
    drop(loaded);
    assert_eq!(model.resident_bytes(), 0);
}

#[test]
fn one_program_serves_all_deltas_of_a_signature() {
    let dir = tempfile::tempdir().unwrap();
    let (model, engine) = model(dir.path());
    let start = engine.counts().0;
    let tasks: Vec<Arc<Task>> = thread::scope(|scope| {
        let model = &model;
        let load = |seed| scope.spawn(move || model.load(&lora(model, seed)).unwrap());
        let threads: Vec<_> = (0..4).map(load).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(engine.counts().0, start + 1);
    for task in &tasks {
        model.swap(task);
        model.predict("lights on").unwrap();
    }
    assert_eq!(engine.counts().0, start + 1, "a swap compiled something");
    // Other shapes need another program, once.
    for seed in 4..6 {
        model.load(&delta(&model, "prefix-tuning", &[("rows", "3")], seed)).unwrap();
    }
    assert_eq!(engine.counts().0, start + 2);
}

#[test]
fn a_failed_load_leaves_the_active_task() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let task = model.load(&lora(&model, 0)).unwrap();
    let generation = model.swap(&task);
    let before = model.predict("lights on").unwrap();
    let path = dir.path().join("other.safetensors");
    let other = lora(&model, 1);
    // Bound to another backbone.
    let mut metadata = other.metadata().clone();
    metadata.backbone = "0".repeat(64);
    Delta::new(metadata, other.tensors().clone()).unwrap().write(&path).unwrap();
    assert!(model.apply(&path).unwrap_err().code().starts_with("delta."));
    // Cut short.
    let bytes = other.to_bytes().unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    assert!(model.apply(&path).unwrap_err().code().starts_with("delta."));
    // It gives other answers than where it was made.
    let mut metadata = other.metadata().clone();
    metadata.self_test.push(edge_tune::delta::SelfTest {
        input: "lights off".into(),
        logits: vec![100.0, 0.0, 0.0],
        tolerance: 0.1,
    });
    Delta::new(metadata, other.tensors().clone()).unwrap().write(&path).unwrap();
    assert_eq!(model.apply(&path).unwrap_err().code(), "runtime.self-test");
    assert_eq!(model.active().unwrap().0, generation);
    assert_eq!(model.resident_bytes(), task.bytes());
    assert_eq!(model.predict("lights on").unwrap(), before);
}

/// The backbone runs once for all tasks whose deltas begin at the same place.
#[test]
fn tasks_share_what_lies_before_their_deltas() {
    let dir = tempfile::tempdir().unwrap();
    let (model, engine) = model(dir.path());
    let pooled = |how| [("pooling", how)];
    let last = [("rank", "2"), ("layers", "last-1")];
    let kinds: [(&str, &[(&str, &str)]); 7] = [
        ("linear", &[]),
        ("linear", &[]),
        ("mlp", &[]),
        ("linear", &pooled("cls")),
        ("lora", &last),
        ("lora", &last),
        ("prompt-tuning", &[("rows", "2")]),
    ];
    let numbered = kinds.iter().zip(0..);
    let tasks: Vec<_> = numbered
        .map(|((method, set), seed)| model.load(&delta(&model, method, set, seed)).unwrap())
        .collect();
    let tasks: Vec<&Task> = tasks.iter().map(|t| &**t).collect();
    let samples: Vec<Sample> = TEXTS
        .iter()
        .map(|text| tasks[0].limit().encode(model.encoder().unwrap(), text).unwrap().into())
        .collect();
    let samples: Vec<&Sample> = samples.iter().collect();
    let bound = engine.counts().1;
    let all = model.logits_of_all(&tasks, &samples).unwrap();
    // One value each for the mean, the first row and the last layer; nothing for the prompts.
    assert_eq!(engine.counts().1 - bound, 3);
    for (i, (task, have)) in tasks.iter().zip(&all).enumerate() {
        let want = model.logits(task, &samples).unwrap();
        assert_eq!(have.shape(), want.shape());
        for (a, b) in have.to_f32().iter().zip(want.to_f32().iter()) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "task {i}: {a} {b}");
        }
    }
    assert!(model.logits_of_all(&[], &samples).unwrap().is_empty());
}
