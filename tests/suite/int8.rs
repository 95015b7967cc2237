//! Tests: products in int8.

use std::sync::Arc;

use edge_tune::backbone::site;
use edge_tune::engine::{Compute, Engine, Feed};
use edge_tune::graph::{Attrs, Dim, Graph};
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{Model, Sample, encode_batch};
use edge_tune::tensor::{DType, Tensor};
use edge_tune::train::{Options, Task, calibrate};

use crate::cli::repo;
use crate::support::{colours, engine, engine_with, text_backbone};

fn int8(threads: usize) -> Arc<dyn Engine> {
    engine_with(threads, Compute::Int8)
}

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The same with int4 weights, the floats that they stand for, and the step of each column as int8.
fn narrow(k: usize, n: usize, backward: bool) -> (Graph, Vec<f32>, Vec<f32>) {
    let q: Vec<i8> = values(k * n, 1).iter().map(|v| (v * 7.9) as i8).collect();
    let bytes: Vec<u8> = q.chunks(2).map(|two| two[0] as u8 & 15 | (two[1] as u8) << 4).collect();
    let scale: Vec<f32> = values(k.div_ceil(32) * n, 8);
    let scale = Tensor::new(&[k.div_ceil(32), n], &scale).unwrap().to_f16();
    let floats = scale.to_f32();
    let peak = |j: usize| floats.iter().skip(j).step_by(n).fold(0f32, |m, s| m.max(s.abs()));
    let steps = (0..n).map(|j| peak(j) * 8.0 / 127.0).collect();
    let floats = (0..k * n).map(|i| f32::from(q[i]) * floats[i / n / 32 * n + i % n]).collect();
    let mut g = Graph::new();
    let from = if backward { n } else { k };
    let x = g.add_input("x", DType::F32, &[Dim::BATCH, from.into()]).unwrap();
    let w = g.add_constant("w", Tensor::from_bytes(DType::I4, &[k, n], &bytes).unwrap());
    let s = g.add_constant("s", scale);
    let attrs = Attrs::none().with("backward", i64::from(backward));
    g.outputs = vec![g.op("FrozenLinear", &[x, w, s], attrs).unwrap()];
    (g, floats, steps)
}

/// y = x W + b with int8 weights, or x W^T.
struct Product {
    weight: Vec<i8>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    graph: Graph,
}

fn product(k: usize, n: usize, backward: bool) -> Product {
    let weight: Vec<i8> = values(k * n, 1).iter().map(|v| (v * 127.0) as i8).collect();
    let scale: Vec<f32> = (0..n).map(|i| 0.004 + i as f32 * 1e-4).collect();
    let (from, to) = if backward { (n, k) } else { (k, n) };
    let bias = values(to, 2);
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, &[Dim::BATCH, from.into()]).unwrap();
    let w = g.add_constant("w", Tensor::new(&[k, n], &weight).unwrap());
    let s = g.add_constant("s", Tensor::vector(&scale));
    let attrs = Attrs::none().with("backward", i64::from(backward));
    let y = g.op("FrozenLinear", &[x, w, s], attrs).unwrap();
    let b = g.add_constant("b", Tensor::vector(&bias));
    let y = g.op("Add", &[y, b], Attrs::none()).unwrap();
    g.outputs = vec![y];
    Product { weight, scale, bias, graph: g }
}

fn run(engine: &dyn Engine, graph: &Graph, x: &[f32], from: usize) -> Vec<f32> {
    let x = Tensor::new(&[x.len() / from, from], x).unwrap();
    let out = engine.compile(graph, &[]).unwrap().run(&[Feed::Tensor(&x)]).unwrap();
    out[0].to_f32().into_owned()
}

/// What a row of x becomes: integers, and the size of their step.
fn rounded(row: &[f32]) -> (Vec<i64>, f64) {
    let step = row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    (row.iter().map(|v| (v * inverse).round_ties_even() as i64).collect(), f64::from(step))
}

/// Whether this machine has a kernel for it: results differ from those in f32.
pub fn fast() -> bool {
    let p = product(64, 64, false);
    let x = values(64, 3);
    run(&*int8(1), &p.graph, &x, 64) != run(&*engine(), &p.graph, &x, 64)
}

#[test]
fn products_are_those_of_the_rounded_rows() {
    if !fast() {
        println!("skipped: this processor multiplies no bytes");
        return;
    }
    let engines = [int8(1), int8(2)];
    let sizes = [(1, 1), (3, 7), (17, 5), (64, 64), (100, 16), (130, 203), (390, 65), (384, 1536)];
    for (k, n) in sizes {
        let p = product(k, n, false);
        for rows in [1, 2, 9, 130, 1030] {
            let x = values(rows * k, 4);
            for engine in &engines {
                let have = run(&**engine, &p.graph, &x, k);
                assert_eq!(have.len(), rows * n);
                for (row, have) in x.chunks(k).zip(have.chunks(n)) {
                    let (q, step) = rounded(row);
                    for (j, &have) in have.iter().enumerate().step_by(1 + n / 40) {
                        let sum: i64 = (0..k).map(|i| q[i] * i64::from(p.weight[i * n + j])).sum();
                        let product = sum as f64 * step * f64::from(p.scale[j]);
                        let want = product + f64::from(p.bias[j]);
                        let most = 1e-6 * (product.abs() + 1.0);
                        assert!((f64::from(have) - want).abs() < most, "[{k},{n}] {have} {want}");
                    }
                }
            }
        }
    }
}

/// Gradients keep 15 bits: rounding each row twice is all that sets them apart.
#[test]
fn backward_products_are_those_of_rows_rounded_twice() {
    if !fast() {
        println!("skipped: this processor multiplies no bytes");
        return;
    }
    let engines = [int8(1), int8(2)];
    for (k, n) in [(1, 1), (7, 3), (40, 70), (100, 16), (203, 130), (384, 390), (130, 1536)] {
        let p = product(k, n, true);
        for rows in [1, 2, 9, 130, 1030] {
            let x = values(rows * n, 5);
            let ours: Vec<_> = engines.iter().map(|e| run(&**e, &p.graph, &x, n)).collect();
            assert_eq!(ours[0], ours[1]);
            for (row, have) in x.chunks(n).zip(ours[0].chunks(k)).step_by(1 + rows / 20) {
                let row: Vec<f32> = row.iter().zip(&p.scale).map(|(v, s)| v * s).collect();
                let step = rounded(&row).1;
                for (j, &have) in have.iter().enumerate().step_by(1 + k / 40) {
                    let w = &p.weight[j * n..][..n];
                    let products = row.iter().zip(w).map(|(v, w)| f64::from(*v) * f64::from(*w));
                    let want = products.sum::<f64>() + f64::from(p.bias[j]);
                    // Half a finer step per weight, and what f32 adds.
                    let weights: f64 = w.iter().map(|w| f64::from(w.unsigned_abs())).sum();
                    let most = weights * step / 254.0 * 0.5;
                    let error = (f64::from(have) - want).abs();
                    assert!(error <= most + 1e-6 * want.abs(), "[{k},{n}] {have} {want}");
                }
            }
        }
    }
    let p = product(384, 1536, true);
    let x = values(64 * 1536, 7);
    let [a, b] = [&*int8(2), &*engine()].map(|e| run(e, &p.graph, &x, 1536));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    assert!(cosine > 0.999_999, "{cosine}");
    assert_ne!(a, b);
}

/// int4 weights become int8 with one step per column: half a step is all that sets them apart.
#[test]
fn int4_weights_move_by_half_a_step() {
    if !fast() {
        println!("skipped: this processor multiplies no bytes");
        return;
    }
    for (k, n) in [(1, 2), (40, 70), (100, 16), (203, 130), (384, 390), (130, 1536)] {
        for backward in [false, true] {
            let (graph, w, steps) = narrow(k, n, backward);
            let (from, to) = if backward { (n, k) } else { (k, n) };
            for rows in [1, 9, 130] {
                let x = values(rows * from, 4);
                let ours = [1, 2].map(|threads| run(&*int8(threads), &graph, &x, from));
                assert_eq!(ours[0], ours[1]);
                for (row, have) in x.chunks(from).zip(ours[0].chunks(to)) {
                    let rounding = rounded(row).1 / if backward { 254.0 } else { 1.0 };
                    for (o, &have) in have.iter().enumerate().step_by(1 + to / 40) {
                        let (mut want, mut most) = (0f64, 0f64);
                        for (c, v) in row.iter().enumerate() {
                            let (i, j) = if backward { (o, c) } else { (c, o) };
                            let (w, v, step) = (w[i * n + j], f64::from(*v), f64::from(steps[j]));
                            want += v * f64::from(w);
                            most += v.abs() * step * 0.6 + f64::from(w.abs()) * rounding * 0.5;
                        }
                        let error = (f64::from(have) - want).abs();
                        assert!(error <= most + 1e-5, "[{k},{n}] {backward} {have} {want} {most}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let p = product(8, 24, false);
    let mut x = values(3 * 8, 6);
    x[9] = f32::NAN;
    x[20] = f32::INFINITY;
    let y = run(&*int8(1), &p.graph, &x, 8);
    assert!(y[..24].iter().all(|v| v.is_finite()));
    assert!(y[24..].iter().all(|v| !v.is_finite()), "{y:?}");
    let zeros = run(&*int8(1), &p.graph, &[0.0; 8], 8);
    assert_eq!(zeros, p.bias);
}

/// The features of the bundled backbone keep their direction.
#[test]
fn features_stay_close() {
    let model = |engine| Model::open(&repo("models/minilm-l6"), engine).unwrap();
    let (exact, rounded) = (model(engine()), model(int8(2)));
    let hidden = |model: &Model, text: &str| {
        let backbone = model.backbone();
        let mut graph = backbone.graph().clone();
        let sites = backbone.sites();
        graph.outputs = vec![site(&graph, &sites.hidden).unwrap()];
        graph.prune();
        let program = model.engine().compile(&graph, &[]).unwrap();
        let sample = Sample::from(model.encoder().unwrap().encode(text).unwrap());
        let inputs = encode_batch(backbone, &[&sample], 1).unwrap();
        let feeds: Vec<Feed> = (program.inputs().iter())
            .map(|name| match name {
                n if *n == sites.input => &inputs.data,
                n if Some(n) == sites.mask.as_ref() => inputs.mask.as_ref().unwrap(),
                _ => inputs.types.as_ref().unwrap(),
            })
            .map(Feed::Tensor)
            .collect();
        program.run(&feeds).unwrap()[0].to_f32().into_owned()
    };
    for text in ["could you dim the lights in the kitchen", "what is it like outside", "stop"] {
        let (a, b) = (hidden(&exact, text), hidden(&rounded, text));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        println!("{text}: {cosine}");
        assert!(cosine > 0.99, "{text}: {cosine}");
    }
}

/// A delta made in f32 passes its self-test in int8, and the other way round.
#[test]
fn self_tests_allow_for_the_other_way_to_compute() {
    let (_dir, path) = text_backbone();
    let data = colours(4);
    let models = [engine(), int8(1)].map(|e| Model::open(&path, e).unwrap());
    let lora = methods::find("lora").unwrap();
    for (here, there) in [(&models[0], &models[1]), (&models[1], &models[0])] {
        let rows: Vec<usize> = (0..data.rows.len()).collect();
        let settings = Settings::resolve(lora, []).unwrap();
        let task = Task::new(here, lora, settings, &data, &rows, &[]).unwrap();
        let options = Options { epochs: Some(10), ..Options::default() };
        let delta = calibrate(&task, &options, &mut ()).unwrap().0;
        for model in [here, there] {
            model.self_test(&model.load(&delta).unwrap()).unwrap();
        }
    }
}
