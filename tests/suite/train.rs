//! Tests: optimizers, schedules, the order of rows, checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edge_tune::tensor::Tensor;
use edge_tune::train::{
    Best, Checkpoint, Moments, Optimizer, OptimizerState, ParamSpec, Rule, Sampler, Schedule,
    Shape, TrainError, clip_global_norm,
};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::support::fixture;

/// Values that torch and transformers computed (tools/fixtures/optimizer.py).
struct Reference(BTreeMap<String, Vec<f32>>);

impl Reference {
    fn load() -> Reference {
        let bytes = fs::read(fixture("optimizer.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |data: &[u8]| {
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        Reference(file.tensors().into_iter().map(|(n, v)| (n, floats(v.data()))).collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0[name]
    }

    /// The `i`-th of `n` equal parts.
    fn part(&self, name: &str, i: usize, n: usize) -> &[f32] {
        let all = self.get(name);
        let len = all.len() / n;
        &all[i * len..(i + 1) * len]
    }
}

fn assert_close(have: &[f32], want: &[f32], what: &str) {
    assert_eq!(have.len(), want.len(), "{what}");
    for (a, b) in have.iter().zip(want) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{what}: {a} is not {b}");
    }
}

fn spec(name: &str, len: usize, decay: bool) -> ParamSpec {
    ParamSpec { name: name.to_owned(), len, decay }
}

const STEPS: usize = 10;
const LR: f32 = 3e-2;

#[test]
fn steps_are_those_of_torch() {
    let reference = Reference::load();
    let rules =
        [("adamw", Rule::adamw(0.1)), ("sgd", Rule::Sgd { momentum: 0.9, weight_decay: 0.01 })];
    for (kind, rule) in rules {
        let mut values = ["w", "b"].map(|n| reference.get(&format!("start.{n}")).to_vec());
        let specs = [spec("w", values[0].len(), true), spec("b", values[1].len(), false)];
        let mut optimizer = Optimizer::new(rule, &specs).unwrap();
        for i in 0..STEPS {
            let grads = ["w", "b"].map(|n| reference.part(&format!("grad.{n}"), i, STEPS).to_vec());
            optimizer.step(LR, &mut values, &grads).unwrap();
            for (n, value) in ["w", "b"].iter().zip(&values) {
                let want = reference.part(&format!("{kind}.{n}"), i, STEPS);
                assert_close(value, want, &format!("{kind} {n} after step {i}"));
            }
        }
        assert_eq!(optimizer.steps(), STEPS as u64);
        let per_element = if kind == "adamw" { 8 } else { 4 };
        assert_eq!(optimizer.bytes(), per_element * (values[0].len() + values[1].len()));
    }
}

#[test]
fn clipping_is_that_of_torch() {
    let reference = Reference::load();
    let mut grads = ["w", "b"].map(|n| reference.part(&format!("grad.{n}"), 5, STEPS).to_vec());
    let norm = clip_global_norm(&mut grads, 0.5);
    assert_close(&[norm], reference.get("clip.norm"), "norm");
    assert_close(&grads[0], reference.get("clip.w"), "w");
    assert_close(&grads[1], reference.get("clip.b"), "b");

    let before = grads.clone();
    assert!(clip_global_norm(&mut grads, 10.0) <= 0.5001);
    assert_eq!(grads, before, "a small gradient is left alone");
    let mut broken = [vec![1.0, f32::NAN], vec![3.0]];
    assert!(clip_global_norm(&mut broken, 0.1).is_nan());
    assert_eq!((broken[0][0], broken[1][0]), (1.0, 3.0));
    let mut large = [vec![f32::MAX / 2.0; 2]];
    assert!(clip_global_norm(&mut large, 1.0).is_finite(), "squares do not overflow");
    assert!((large[0][0] - 0.5f32.sqrt()).abs() < 1e-6);
}

#[test]
fn rates_are_those_of_transformers() {
    let reference = Reference::load();
    let shapes =
        [("cosine", Shape::Cosine), ("linear", Shape::Linear), ("constant", Shape::Constant)];
    for (kind, shape) in shapes {
        for (total, warmup) in [(20, 0), (20, 5), (7, 7)] {
            let schedule = Schedule { peak: LR, warmup, shape };
            let rates: Vec<f32> = (0..total).map(|s| schedule.lr(s, total)).collect();
            let name = format!("lr.{kind}.{total}.{warmup}");
            assert_close(&rates, reference.get(&name), &name);
            let end = if shape == Shape::Constant { LR } else { 0.0 };
            assert_eq!(schedule.lr(total, total), end, "{name}");
        }
    }
    // Where transformers' cosine would rise again, the rate stays 0.
    let schedule = Schedule { peak: 1.0, warmup: 2, shape: Shape::Cosine };
    assert_eq!(schedule.lr(30, 20), 0.0);
    assert_eq!(schedule.lr(u64::MAX, 0), 0.0);
}

#[test]
fn settings_out_of_range_are_named() {
    let adamw = |beta1, beta2, eps, weight_decay| Rule::AdamW { beta1, beta2, eps, weight_decay };
    let cases = [
        (adamw(1.0, 0.9, 1e-8, 0.0), "beta1 is 1"),
        (adamw(0.9, -0.1, 1e-8, 0.0), "beta2 is -0.1"),
        (adamw(0.9, 0.9, 0.0, 0.0), "eps is 0"),
        (adamw(0.9, 0.9, 1e-8, f64::INFINITY), "weight_decay is inf"),
        (Rule::Sgd { momentum: f64::NAN, weight_decay: 0.0 }, "momentum is NaN"),
        (Rule::Sgd { momentum: 0.9, weight_decay: -1.0 }, "weight_decay is -1"),
    ];
    for (rule, message) in cases {
        let error = Optimizer::new(rule, &[]).unwrap_err();
        assert_eq!(error.code(), "train.setting");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn wrong_sizes_change_nothing() {
    let mut optimizer =
        Optimizer::new(Rule::adamw(0.0), &[spec("a", 2, true), spec("b", 1, true)]).unwrap();
    let good = [vec![1.0, 2.0], vec![3.0]];
    let mut values = good.clone();
    let error = optimizer.step(0.1, &mut values, &good[..1]).unwrap_err();
    assert_eq!(error.code(), "train.tensor-count");
    let error = optimizer.step(0.1, &mut values, &[vec![1.0, 2.0], vec![]]).unwrap_err();
    assert_eq!(error.code(), "train.tensor-size");
    assert!(error.to_string().contains("gradient of tensor \"b\": 0 elements"), "{error}");
    let error = optimizer.step(0.1, &mut [vec![1.0], vec![3.0]], &good).unwrap_err();
    assert!(error.to_string().contains("parameter of tensor \"a\""), "{error}");
    assert_eq!((values, optimizer.steps()), (good, 0));
}

#[test]
fn a_restored_optimizer_goes_on_the_same() {
    for rule in [Rule::adamw(0.1), Rule::Sgd { momentum: 0.9, weight_decay: 0.1 }] {
        let specs = [spec("a", 3, true)];
        let grads = |i: u64| [vec![i as f32 * 0.3 - 1.0, 0.5, -(i as f32)]];
        let mut optimizer = Optimizer::new(rule, &specs).unwrap();
        let mut values = [vec![1.0, -2.0, 0.5]];
        for i in 0..5 {
            optimizer.step(0.01, &mut values, &grads(i)).unwrap();
        }
        let mut restored = Optimizer::new(rule, &specs).unwrap();
        restored.restore(optimizer.state()).unwrap();
        let mut again = values.clone();
        for i in 5..10 {
            optimizer.step(0.01, &mut values, &grads(i)).unwrap();
            restored.step(0.01, &mut again, &grads(i)).unwrap();
        }
        assert_eq!(values, again);
        assert_eq!(optimizer.state(), restored.state());
    }
}

#[test]
fn a_foreign_optimizer_state_is_refused() {
    let make = |rule, names: &[&str], len| {
        let specs: Vec<_> = names.iter().map(|n| spec(n, len, true)).collect();
        Optimizer::new(rule, &specs).unwrap()
    };
    let sgd = Rule::Sgd { momentum: 0.9, weight_decay: 0.0 };
    let cases = [
        (make(Rule::adamw(0.0), &["a"], 2), "train.state-tensor", "lacks tensor \"b\""),
        (make(Rule::adamw(0.0), &["a", "b", "c"], 2), "train.state-tensor", "unknown tensor \"c\""),
        (make(Rule::adamw(0.0), &["a", "b"], 3), "train.tensor-size", "moment of tensor \"a\": 3"),
        (make(sgd, &["a", "b"], 2), "train.tensor-size", "moment of tensor \"a\": 0"),
    ];
    for (other, code, message) in cases {
        let mut optimizer = make(Rule::adamw(0.0), &["a", "b"], 2);
        let before = optimizer.state();
        let error = optimizer.restore(other.state()).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(optimizer.state(), before);
    }
}

#[test]
fn an_epoch_has_every_row_once_in_a_new_order() {
    let rows: Vec<usize> = (100..125).collect();
    let mut sampler = Sampler::new(&rows, 8, 5).unwrap();
    assert_eq!(sampler.batches(), 4);
    let mut epochs = Vec::new();
    for epoch in 0..3 {
        assert_eq!((sampler.epoch(), sampler.position()), (epoch, 0));
        let batches: Vec<_> = (0..4).map(|_| sampler.next_batch()).collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 1]);
        let order = batches.concat();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, rows);
        epochs.push(order);
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_ne!(epochs[1], epochs[2]);
    assert_ne!(epochs[0], Sampler::new(&rows, 25, 6).unwrap().next_batch());
    assert_eq!(epochs[0], Sampler::new(&rows, 25, 5).unwrap().next_batch());
}

#[test]
fn a_sampler_goes_on_where_another_stopped() {
    let rows: Vec<usize> = (0..25).collect();
    for stop in 0..12 {
        let mut first = Sampler::new(&rows, 8, 5).unwrap();
        for _ in 0..stop {
            first.next_batch();
        }
        let mut second = Sampler::new(&rows, 8, 5).unwrap();
        second.seek(first.epoch(), first.position()).unwrap();
        for _ in 0..6 {
            assert_eq!(first.next_batch(), second.next_batch());
        }
    }
    let mut sampler = Sampler::new(&rows, 8, 5).unwrap();
    for position in [25, 32, 7, usize::MAX] {
        assert_eq!(sampler.seek(0, position).unwrap_err().code(), "train.position");
    }
    assert_eq!(Sampler::new(&[], 8, 0).unwrap_err().code(), "train.no-batches");
    assert_eq!(Sampler::new(&rows, 0, 0).unwrap_err().code(), "train.no-batches");
    assert_eq!(Sampler::new(&rows, usize::MAX, 0).unwrap().next_batch().len(), 25);
}

fn plan() -> Value {
    json!({"method": "lora", "config": {"rank": 4, "scale": 0.1}, "data": "ab12", "seed": 3,
           "lr": f64::from(2e-3f32)})
}

fn checkpoint() -> Checkpoint {
    let params = |x: f32| {
        BTreeMap::from([
            ("l0/a".to_owned(), Tensor::new(&[2, 2], &[x, -2.0, f32::MIN_POSITIVE, 0.1]).unwrap()),
            ("empty".to_owned(), Tensor::new::<f32>(&[0, 3], &[]).unwrap()),
        ])
    };
    let moments = Moments { first: vec![0.1, 0.2, 0.3, 0.4], second: vec![1e-30; 4] };
    let best = Best { score: 2.0 / 3.0, step: 40, params: params(7.0) };
    Checkpoint {
        plan: plan(),
        step: 42,
        epoch: 3,
        position: 16,
        params: params(1.0),
        optimizer: OptimizerState {
            step: 41,
            moments: BTreeMap::from([
                ("l0/a".to_owned(), moments),
                ("empty".to_owned(), Moments::default()),
            ]),
        },
        best: Some(best),
    }
}

fn saved() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.ckpt");
    checkpoint().write(&path).unwrap();
    (dir, path)
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit() {
    let (dir, path) = saved();
    assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint());
    assert_eq!(Checkpoint::resume(&path, &plan()).unwrap(), Some(checkpoint()));
    let early = Checkpoint { best: None, step: 1, ..checkpoint() };
    early.write(&path).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap(), early);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");

    Checkpoint::remove(&path).unwrap();
    Checkpoint::remove(&path).unwrap();
    assert_eq!(Checkpoint::resume(&path, &plan()).unwrap(), None);
    let error = Checkpoint::read(&path).unwrap_err();
    assert_eq!(error.code(), "train.checkpoint-io");
    assert!(error.to_string().contains("cannot read checkpoint"), "{error}");
}

#[test]
fn another_run_is_refused_with_every_difference() {
    let (_dir, path) = saved();
    let mut other = plan();
    other["seed"] = json!(4);
    other["config"]["rank"] = json!(8);
    other["config"]["dropout"] = json!(0.5);
    other.as_object_mut().unwrap().remove("lr");
    let Err(TrainError::OtherRun { differences, .. }) = Checkpoint::resume(&path, &other) else {
        panic!("it must be refused");
    };
    let mut differences = differences;
    differences.sort_unstable();
    let lr = format!("lr: {} there, null now", plan()["lr"]);
    let want = ["config.dropout: null there, 0.5 now", "config.rank: 4 there, 8 now", &lr];
    assert_eq!(differences[..3], want);
    assert_eq!(differences[3..], ["seed: 3 there, 4 now"]);
    let whole = Checkpoint::resume(&path, &json!(1)).unwrap_err();
    assert_eq!(whole.code(), "train.other-run");
    assert!(whole.to_string().contains("belongs to another run: plan: {"), "{whole}");
}

#[test]
fn damage_anywhere_is_noticed() {
    let (_dir, path) = saved();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: String| {
        fs::write(&path, bytes).unwrap();
        match Checkpoint::read(&path) {
            Err(TrainError::BadCheckpoint { .. }) => {}
            // The header is JSON: white space in it means nothing.
            other => assert_eq!(other.unwrap(), checkpoint(), "{what}"),
        }
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes, format!("flip in byte {at}"));
    }
    for len in (0..good.len()).step_by(7) {
        fs::write(&path, &good[..len]).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap_err().code(), "train.bad-checkpoint", "{len}");
    }
    fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap_err().code(), "train.bad-checkpoint");
}

#[test]
fn other_safetensors_files_are_no_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let values = 1f32.to_le_bytes();
    let view = TensorView::new(safetensors::Dtype::F32, vec![1], &values).unwrap();
    let version = |v: &str| Some([("edge-tune.checkpoint".to_owned(), v.to_owned())].into());
    for (meta, message) in [
        (None, "no \"edge-tune.checkpoint\""),
        (version("2"), "format 2, not 1"),
        (version("1"), "SHA-256"),
    ] {
        fs::write(&path, safetensors::serialize([("param/a", &view)], meta).unwrap()).unwrap();
        let error = Checkpoint::read(&path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
    let (dir, path) = saved();
    let mut wrong = checkpoint();
    wrong.params.insert("ids".to_owned(), Tensor::vector(&[1i64]));
    let error = wrong.write(&path).unwrap_err();
    assert_eq!(error.code(), "train.bad-checkpoint");
    assert!(error.to_string().contains("\"ids\""), "{error}");
    assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint());

    let missing = dir.path().join("no/such/folder");
    let error = checkpoint().write(&missing).unwrap_err();
    assert!(error.to_string().contains("cannot write checkpoint"), "{error}");
    let folder: &Path = dir.path();
    let error = Checkpoint::remove(folder).unwrap_err();
    assert!(error.to_string().contains("cannot remove checkpoint"), "{error}");
}
