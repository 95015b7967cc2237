//! Tests: whole calibrations on a tiny backbone.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use edge_tune::data::Dataset;
use edge_tune::delta::Delta;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::Model;
use edge_tune::tensor::Tensor;
use edge_tune::train::{
    Ended, Event, Observer, Options, Report, Task, TrainError, calibrate, evaluate, examples,
};
use edge_tune::{Error, data::Row};

use crate::support::{colours, engine, engine_on, text_backbone};

fn model(dir: &Path) -> Model {
    Model::open(dir, engine()).unwrap()
}

fn task<'a>(model: &'a Model, method: &str, set: &[(&str, &str)], held: f64) -> Task<'a> {
    // The task borrows it.
    let data: &Dataset = Box::leak(Box::new(colours(12)));
    let all: Vec<usize> = (0..data.rows.len()).collect();
    let (train, validation) = data.holdout(&all, held, 0).unwrap();
    let method = methods::find(method).unwrap();
    let settings = Settings::resolve(method, set.iter().copied()).unwrap();
    Task::new(model, method, settings, data, &train, &validation).unwrap().named("colours")
}

fn options() -> Options {
    Options { epochs: Some(4), batch: 8, learning_rate: Some(0.01), ..Options::default() }
}

fn tensors(delta: &Delta) -> &BTreeMap<String, Tensor> {
    delta.tensors()
}

/// Accuracy on the whole data.
fn accuracy(model: &Model, delta: &Delta) -> f64 {
    let data = colours(12);
    let rows: Vec<usize> = (0..data.rows.len()).collect();
    let task = model.load(delta).unwrap();
    model.self_test(&task).unwrap();
    let labels = &delta.metadata().labels;
    let examples = examples(model, &data, &rows, labels, task.limit()).unwrap();
    let result = evaluate(model, &task, &examples, |_| true).unwrap();
    assert_eq!(result.n, 36);
    assert_eq!(result.confusion.iter().flatten().sum::<usize>(), 36);
    result.accuracy
}

#[test]
fn every_method_learns_three_classes() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    for method in methods::all() {
        let settings = Settings::resolve(*method, []).unwrap();
        if method.plan(model.backbone().manifest(), 3, &settings).is_err() {
            println!("{}: not for texts", method.name());
            continue;
        }
        let task = task(&model, method.name(), &[], 0.0);
        let options = Options { epochs: Some(12), ..options() };
        let (delta, report) = calibrate(&task, &options, &mut ()).unwrap();
        let accuracy = accuracy(&model, &delta);
        println!("{}: {accuracy:.3}, loss {:?}", method.name(), report.train_loss);
        assert!(accuracy >= 0.8, "{}: {accuracy}", method.name());
        assert_eq!(delta.metadata().task, "colours");
        assert_eq!(report.delta_bytes as u64, delta.file_bytes());
    }
}

#[test]
fn reparameterised_prefixes_are_served_without_their_network() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let set = [("projection", "true"), ("hidden", "8"), ("rows", "3")];
    let task = task(&model, "prefix-tuning", &set, 0.0);
    let (delta, _) = calibrate(&task, &options(), &mut ()).unwrap();
    assert!(
        tensors(&delta)
            .keys()
            .all(|k| k.starts_with("head.") || k.ends_with(".key") || k.ends_with(".value"))
    );
    assert_eq!(tensors(&delta)["prefix.0.key"].shape(), [3, 4, 8]);
}

/// Stops after some steps.
struct StopAt(u64, Cell<bool>);

impl Observer for StopAt {
    fn event(&mut self, event: Event) {
        if let Event::Step { step, .. } = event {
            self.1.set(step >= self.0);
        }
    }
    fn stop(&self) -> bool {
        self.1.get()
    }
}

#[test]
fn an_interrupted_run_goes_on_as_if_it_had_not_stopped() {
    let (dir, path) = text_backbone();
    let model = model(&path);
    for (method, held) in [("lora", 0.25), ("linear", 0.25), ("prompt-tuning", 0.0)] {
        let task = task(&model, method, &[], held);
        let whole = calibrate(&task, &options(), &mut ()).unwrap();
        let file = dir.path().join(format!("{method}.checkpoint"));
        let options = Options { checkpoint: Some(file.clone()), ..options() };
        for stop in [3, 7] {
            let stopped = calibrate(&task, &options, &mut StopAt(stop, Cell::new(false)));
            match stopped.unwrap_err() {
                Error::Train(TrainError::Interrupted { step, checkpoint: Some(at) }) => {
                    assert_eq!((step, &at), (stop, &file));
                }
                other => panic!("{other}"),
            }
            assert!(file.exists());
        }
        // Another run does not take it for its own.
        let other = Options { seed: 5, ..options.clone() };
        let error = calibrate(&task, &other, &mut ()).unwrap_err();
        assert_eq!(error.code(), "train.other-run", "{error}");
        assert!(error.to_string().contains("seed"), "{error}");

        let resumed = calibrate(&task, &options, &mut ()).unwrap();
        assert_eq!(tensors(&resumed.0), tensors(&whole.0), "{method}");
        assert_eq!(resumed.1.steps, whole.1.steps);
        assert_eq!(resumed.1.validation_accuracy, whole.1.validation_accuracy);
        assert!(!file.exists(), "a finished run removes its checkpoint");
    }
}

#[test]
fn micro_batches_and_caching_do_not_change_the_result() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let lora = [("layers", "last-1"), ("rank", "2")];
    let run = |options: &Options| -> (Delta, Report) {
        calibrate(&task(&model, "lora", &lora, 0.0), options, &mut ()).unwrap()
    };
    let (cached, report) = run(&options());
    assert!(report.budget.cached && report.budget.cache_bytes > 0);
    let (plain, report) = run(&Options { cache: false, ..options() });
    assert!(!report.budget.cached);
    let close = |a: &Delta, b: &Delta| {
        for (name, t) in tensors(a) {
            let worst = crate::support::difference(t, b.tensor(name).unwrap());
            // Sums in another order, then rounded to f16.
            assert!(worst < 5e-3, "{name}: {worst}");
        }
    };
    close(&cached, &plain);
    let (small, report) = run(&Options { cache: false, micro_batch: Some(3), ..options() });
    assert_eq!(report.budget.micro_batch, 3);
    close(&plain, &small);
}

#[test]
fn workers_share_a_batch() {
    let (_dir, path) = text_backbone();
    let run = |threads: usize| -> (Delta, Report) {
        let model = Model::open(&path, engine_on(threads)).unwrap();
        calibrate(&task(&model, "lora", &[], 0.25), &options(), &mut ()).unwrap()
    };
    let (alone, report) = run(1);
    assert_eq!(report.budget.workers, 1);
    let (shared, report) = run(2);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(2);
    assert_eq!(report.budget.workers, workers);
    for (name, t) in tensors(&alone) {
        let worst = crate::support::difference(t, shared.tensor(name).unwrap());
        // Sums in another order, then rounded to f16.
        assert!(worst < 5e-3, "{name}: {worst}");
    }
    // Which worker takes which rows does not matter.
    assert_eq!(tensors(&run(2).0), tensors(&shared));
}

#[test]
fn limits_are_kept_or_refused() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let task = task(&model, "lora", &[], 0.25);
    let error = calibrate(&task, &Options { max_ram: Some(1 << 20), ..options() }, &mut ());
    let error = error.unwrap_err();
    assert_eq!(error.code(), "train.memory");
    assert!(error.to_string().contains("--max-ram"), "{error}");

    let started = std::time::Instant::now();
    let long = Options {
        epochs: Some(1_000_000),
        patience: usize::MAX,
        max_time: Some(Duration::from_millis(1500)),
        ..options()
    };
    let (_, report) = calibrate(&task, &long, &mut ()).unwrap();
    assert_eq!(report.ended, Ended::MaxTime);
    assert!(report.steps > 0);
    // A contract, so it is tested; the margin is for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn the_untrained_head_is_kept_if_training_makes_it_worse() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let task = task(&model, "linear", &[], 0.25);
    // A learning rate of this size only destroys.
    let wild = Options { learning_rate: Some(3.0), patience: 2, ..options() };
    let (delta, report) = calibrate(&task, &wild, &mut ()).unwrap();
    let untrained = Options { epochs: Some(0), ..options() };
    let (start, start_report) = calibrate(&task, &untrained, &mut ()).unwrap();
    assert_eq!(start_report.steps, 0);
    if report.kept_untrained {
        assert_eq!(tensors(&delta), tensors(&start));
    }
    assert!(report.validation_accuracy >= report.untrained_accuracy);
}

/// Rows of `colours` that have one of `labels`.
fn only(labels: &[&str]) -> Dataset {
    let rows: Vec<Row> =
        colours(12).rows.into_iter().filter(|r| labels.contains(&r.label.as_str())).collect();
    Dataset::new("some colours", rows)
}

#[test]
fn prototypes_take_in_classes_and_rows_later() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let prototypes = methods::find("prototypes").unwrap();
    let settings = || Settings::resolve(prototypes, []).unwrap();
    let all = colours(12);
    let rows: Vec<usize> = (0..all.rows.len()).collect();
    let whole = Task::new(&model, prototypes, settings(), &all, &rows, &[]).unwrap();
    let (whole, _) = calibrate(&whole, &options(), &mut ()).unwrap();

    let two = only(&["red", "green"]);
    let (first, second): (Vec<usize>, Vec<usize>) = (0..two.rows.len()).partition(|i| i % 3 == 0);
    let start = Task::new(&model, prototypes, settings(), &two, &first, &[]).unwrap().named("hue");
    let (start, _) = calibrate(&start, &options(), &mut ()).unwrap();
    let more = Task::from_parent(&model, &start, &two, &second, &[]).unwrap();
    let (more, _) = calibrate(&more, &options(), &mut ()).unwrap();
    let blue = only(&["blue"]);
    let rows: Vec<usize> = (0..blue.rows.len()).collect();
    let last = Task::from_parent(&model, &more, &blue, &rows, &[]).unwrap();
    let (last, _) = calibrate(&last, &options(), &mut ()).unwrap();

    assert_eq!(last.metadata().labels, ["green", "red", "blue"]);
    assert_eq!(last.metadata().parent.as_deref(), Some(more.digest()));
    assert_eq!(last.metadata().task, "hue");
    let counts = last.tensor("prototypes.count").unwrap();
    assert_eq!(counts.as_slice::<i64>().unwrap(), [12, 12, 12]);
    let row = |delta: &Delta, label: &str| -> Vec<f32> {
        let k = delta.metadata().labels.iter().position(|l| l == label).unwrap();
        let mean = delta.tensor("prototypes.mean").unwrap();
        let d = mean.shape()[1];
        mean.to_f32()[k * d..(k + 1) * d].to_vec()
    };
    for label in ["red", "green", "blue"] {
        let pairs = row(&last, label).into_iter().zip(row(&whole, label));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // The means went through f16 twice.
        assert!(worst < 2e-3, "{label}: {worst}");
    }
}

/// Trains on two colours, then on the third alone.
fn grow(model: &Model, method: &str, set: &[(&str, &str)], options: &Options) -> (Delta, Delta) {
    let method = methods::find(method).unwrap();
    let settings = Settings::resolve(method, set.iter().copied()).unwrap();
    let two = only(&["red", "green"]);
    let rows: Vec<usize> = (0..two.rows.len()).collect();
    let start = Task::new(model, method, settings, &two, &rows, &[]).unwrap();
    let (start, _) = calibrate(&start, options, &mut ()).unwrap();
    let blue = only(&["blue"]);
    let rows: Vec<usize> = (0..blue.rows.len()).collect();
    let last = Task::from_parent(model, &start, &blue, &rows, &[]).unwrap();
    let (last, _) = calibrate(&last, options, &mut ()).unwrap();
    assert_eq!(last.metadata().labels, ["green", "red", "blue"]);
    (start, last)
}

#[test]
fn a_head_grows_with_new_classes() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let values = |delta: &Delta, name: &str| delta.tensor(name).unwrap().to_f32().into_owned();
    for mask_classes in [None, Some(true)] {
        let options = Options { mask_classes, ..options() };
        let (start, last) = grow(&model, "lora", &[("rank", "2")], &options);
        let (old, new) = (values(&start, "head.bias"), values(&last, "head.bias"));
        assert_eq!((old.len(), new.len()), (2, 3));
        // A single class has nobody to compete with: nothing pushes the others.
        assert_eq!(old == new[..2], mask_classes == Some(true));
        // The new class starts on the scale of the others.
        assert!((0.5..2.0).contains(&(new[2] / old[0])), "{old:?} {new:?}");
    }
}

#[test]
fn a_cache_grows_with_new_rows_and_classes() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    for method in ["tip-adapter", "tip-adapter-f"] {
        let (start, last) = grow(&model, method, &[], &options());
        let labels = last.tensor("cache.labels").unwrap().as_slice::<i64>().unwrap().to_vec();
        assert_eq!(labels.len(), 36);
        assert_eq!(labels[..24].iter().filter(|l| **l == 0).count(), 12);
        assert!(labels[24..].iter().all(|l| *l == 2));
        assert_eq!(last.metadata().config["keys"], "36");
        let classes = |delta: &Delta| delta.tensor("cache.classes").unwrap().to_f32().into_owned();
        let (old, new) = (classes(&start), classes(&last));
        assert_eq!(old, new[..old.len()]);
        // It answers, and knows the colours it was made of.
        let data = colours(12);
        let rows: Vec<usize> = (0..data.rows.len()).collect();
        let loaded = model.load(&last).unwrap();
        let known = &last.metadata().labels;
        let examples = examples(&model, &data, &rows, known, loaded.limit()).unwrap();
        let result = evaluate(&model, &loaded, &examples, |_| true).unwrap();
        assert!(result.accuracy > 0.8, "{method}: {}", result.accuracy);
    }
    let tip = methods::find("tip-adapter").unwrap();
    let settings = Settings::resolve(tip, [("keys", "5")]).unwrap();
    let data = colours(4);
    let error = Task::new(&model, tip, settings, &data, &[0, 1, 5, 6], &[]).err().unwrap();
    assert_eq!(error.code(), "method.setting");
}

#[test]
fn the_strength_of_a_cache_is_searched_on_held_out_rows() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let strength = |held: f64| {
        let task = task(&model, "tip-adapter", &[], held);
        let (delta, report) = calibrate(&task, &options(), &mut ()).unwrap();
        let part = |name: &str| delta.tensor(name).unwrap().to_f32()[0];
        assert_eq!(report.validation_accuracy.is_some(), held > 0.0);
        [part("cache.alpha"), part("cache.beta")]
    };
    assert_eq!(strength(0.0).map(|v| (v * 100.0).round()), [117.0, 100.0]);
    assert!(strength(0.25) != strength(0.0));
}

#[test]
fn a_delta_can_be_trained_on() {
    let (_dir, path) = text_backbone();
    let model = model(&path);
    let (first, _) =
        calibrate(&task(&model, "lora", &[("rank", "2")], 0.0), &options(), &mut ()).unwrap();
    let data = colours(12);
    let rows: Vec<usize> = (0..data.rows.len()).collect();
    let again = Task::from_parent(&model, &first, &data, &rows, &[]).unwrap();
    assert_eq!(again.settings.text("rank"), Ok("2"));
    let untrained = Options { epochs: Some(0), ..options() };
    let (same, _) = calibrate(&again, &untrained, &mut ()).unwrap();
    assert_eq!(tensors(&same), tensors(&first));
    assert_eq!(same.metadata().parent.as_deref(), Some(first.digest()));
}
