//! Tests: engine.

use std::collections::HashMap;
use std::sync::Arc;

use edge_tune::engine::{EngineError, Feed, Program};
use edge_tune::graph::canonical::{canonicalise, padding_masks};
use edge_tune::graph::{Attrs, Dim, Graph, ValueId, onnx};
use edge_tune::tensor::{DType, Tensor};

use crate::support::{engine, engine_on, fixture};

fn compile(g: &Graph) -> Arc<dyn Program> {
    engine().compile(g, &[]).unwrap()
}

fn run(p: &Arc<dyn Program>, inputs: &[&Tensor]) -> Vec<Tensor> {
    let feeds: Vec<Feed> = inputs.iter().map(|t| Feed::Tensor(t)).collect();
    p.run(&feeds).unwrap()
}

fn refusal(p: &Arc<dyn Program>, inputs: &[&Tensor]) -> String {
    let feeds: Vec<Feed> = inputs.iter().map(|t| Feed::Tensor(t)).collect();
    match p.run(&feeds) {
        Err(e @ EngineError::Input { .. }) => e.to_string(),
        other => panic!("not refused as input: {other:?}"),
    }
}

/// Reproducible values in -1..1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn close(have: &Tensor, want: &[f64], what: &str) {
    let have = have.to_f32();
    assert_eq!(have.len(), want.len(), "{what}");
    let most = want.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
    for (i, (&h, &w)) in have.iter().zip(want).enumerate() {
        assert!((f64::from(h) - w).abs() <= 1e-5 * most, "{what}: element {i} is {h}, not {w}");
    }
}

/// A weight `[k, n]`, with the scales of its kind, and its true values.
struct Weight {
    tensor: Tensor,
    scale: Option<Tensor>,
    values: Vec<f64>,
}

fn weight(k: usize, n: usize, kind: DType) -> Weight {
    let v = noise(k * n, (k * 31 + n) as u64);
    if kind == DType::F32 {
        let values = v.iter().map(|&v| f64::from(v)).collect();
        return Weight { tensor: Tensor::new(&[k, n], &v).unwrap(), scale: None, values };
    }
    let steps = if kind == DType::I4 { 8.0 } else { 127.0 };
    let q: Vec<i8> = v.iter().map(|v| (v * steps).floor() as i8).collect();
    let (tensor, scale) = match kind {
        DType::I4 => {
            let bytes: Vec<u8> =
                q.chunks(2).map(|two| two[0] as u8 & 15 | (two[1] as u8) << 4).collect();
            let blocks = k.div_ceil(32);
            // Exact in f16, some of them negative.
            let scale: Vec<half::f16> = (0..blocks * n)
                .map(|i| half::f16::from_f32([0.125, -0.0625, 0.03125][i % 3]))
                .collect();
            let tensor = Tensor::from_bytes(kind, &[k, n], &bytes).unwrap();
            (tensor, Tensor::new(&[blocks, n], &scale).unwrap())
        }
        _ => {
            let scale: Vec<f32> = (0..n).map(|i| 0.004 + i as f32 * 1e-4).collect();
            (Tensor::new(&[k, n], &q).unwrap(), Tensor::vector(&scale))
        }
    };
    let scales = scale.to_f32();
    let of =
        |i: usize| if kind == DType::I4 { scales[i / n / 32 * n + i % n] } else { scales[i % n] };
    let values = q.iter().enumerate().map(|(i, &q)| f64::from(q) * f64::from(of(i))).collect();
    drop(scales);
    Weight { tensor, scale: Some(scale), values }
}

fn linear(g: &mut Graph, x: ValueId, w: &Weight, backward: bool) -> ValueId {
    let mut inputs = vec![x, g.add_constant("w", w.tensor.clone())];
    inputs.extend(w.scale.clone().map(|s| g.add_constant("scale", s)));
    g.op("FrozenLinear", &inputs, Attrs::none().with("backward", i64::from(backward))).unwrap()
}

#[test]
fn frozen_linear_equals_the_plain_sum() {
    let engines = [engine(), engine_on(2)];
    for (k, n) in [(1, 1), (17, 5), (1, 33), (64, 64), (100, 16), (130, 204), (390, 65)] {
        // An odd number of columns is never stored in halves of bytes.
        let kinds = [DType::F32, DType::I8, DType::I4];
        for kind in kinds.into_iter().filter(|&kind| kind != DType::I4 || n % 2 == 0) {
            let w = weight(k, n, kind);
            for backward in [false, true] {
                let (from, to) = if backward { (n, k) } else { (k, n) };
                let mut g = Graph::new();
                let rows = Dim([2, 3, 2]);
                let x = g.add_input("x", DType::F32, &[rows, Dim::fixed(from)]).unwrap();
                let y = linear(&mut g, x, &w, backward);
                g.outputs.push(y);
                let bias = noise(to, 3);
                let b = g.add_constant("b", Tensor::vector(&bias));
                let y2 = linear(&mut g, x, &w, backward);
                let sum = g.op("Add", &[b, y2], Attrs::none()).unwrap();
                g.outputs.push(sum);
                for engine in &engines {
                    let p = engine.compile(&g, &[]).unwrap();
                    for rows in [1, 2, 7, 128] {
                        let x = noise(rows * from, 9);
                        let mut want = vec![0f64; rows * to];
                        for r in 0..rows {
                            for o in 0..to {
                                want[r * to + o] = (0..from)
                                    .map(|c| {
                                        let at = if backward { o * n + c } else { c * n + o };
                                        f64::from(x[r * from + c]) * w.values[at]
                                    })
                                    .sum();
                            }
                        }
                        let what = format!("[{k},{n}] {kind} backward {backward} rows {rows}");
                        let y = run(&p, &[&Tensor::new(&[rows, from], &x).unwrap()]);
                        close(&y[0], &want, &what);
                        assert_eq!(y[1].shape(), [rows, to]);
                        want.iter_mut()
                            .enumerate()
                            .for_each(|(i, v)| *v += f64::from(bias[i % to]));
                        close(&y[1], &want, &format!("{what} with bias"));
                    }
                }
            }
        }
    }
}

#[test]
fn frozen_linear_takes_no_rows_and_one_dimension() {
    let w = weight(6, 4, DType::I8);
    let mut g = Graph::new();
    let empty = g.add_input("empty", DType::F32, &[0.into(), 6.into()]).unwrap();
    let vector = g.add_input("vector", DType::F32, &[6.into()]).unwrap();
    let (a, b) = (linear(&mut g, empty, &w, false), linear(&mut g, vector, &w, false));
    g.outputs = vec![a, b];
    let p = compile(&g);
    let x = noise(6, 1);
    let y = run(&p, &[&Tensor::zeros(DType::F32, &[0, 6]), &Tensor::vector(&x)]);
    assert_eq!(y[0].shape(), [0, 4]);
    let want: Vec<f64> =
        (0..4).map(|o| (0..6).map(|c| f64::from(x[c]) * w.values[c * 4 + o]).sum()).collect();
    assert_eq!(y[1].shape(), [4]);
    close(&y[1], &want, "vector");
}

/// y = softmax(embed(ids) W) per token, with an input that nothing reads.
fn small_text_model() -> Graph {
    let mut g = Graph::new();
    let shape = [Dim::BATCH, Dim::SEQUENCE];
    let ids = g.add_input("ids", DType::I64, &shape).unwrap();
    g.add_input("unused", DType::Bool, &shape).unwrap();
    let mask = g.add_input("mask", DType::F32, &shape).unwrap();
    let table: Vec<i8> = (0..10 * 6).map(|i| (i * 37 % 255 - 127) as i8).collect();
    let table = g.add_constant("table", Tensor::new(&[10, 6], &table).unwrap());
    let scale: Vec<f32> = (0..10).map(|i| 0.01 + i as f32 * 0.002).collect();
    let scale = g.add_constant("row_scale", Tensor::vector(&scale));
    let inputs = [Some(table), Some(scale), Some(ids)];
    let x = g.op_n("FrozenGather", &inputs, Attrs::none(), 1).unwrap()[0];
    let axes = g.ints(&[-1]);
    let mask = g.op("Unsqueeze", &[mask, axes], Attrs::none()).unwrap();
    let x = g.op("Mul", &[x, mask], Attrs::none()).unwrap();
    let y = linear(&mut g, x, &weight(6, 5, DType::I8), false);
    let y = g.op("Softmax", &[y], Attrs::none().with("axis", -1)).unwrap();
    g.outputs = vec![y];
    g
}

fn text_inputs(batch: usize, len: usize) -> [Tensor; 3] {
    let ids: Vec<i64> = (0..batch * len).map(|i| (i * 7 % 10) as i64).collect();
    [
        Tensor::new(&[batch, len], &ids).unwrap(),
        Tensor::bools(&[batch, len], &vec![true; batch * len]).unwrap(),
        Tensor::new(&[batch, len], &vec![1f32; batch * len]).unwrap(),
    ]
}

fn run_text(p: &Arc<dyn Program>, [ids, unused, mask]: &[Tensor; 3]) -> Tensor {
    run(p, &[ids, unused, mask]).remove(0)
}

#[test]
fn batch_and_sequence_are_free() {
    let p = compile(&small_text_model());
    assert_eq!(p.inputs(), ["ids", "unused", "mask"]);
    let long = run_text(&p, &text_inputs(3, 12)).to_f32().into_owned();
    for (batch, len) in [(1, 1), (1, 12), (2, 5), (3, 12)] {
        let y = run_text(&p, &text_inputs(batch, len));
        assert_eq!(y.shape(), [batch, len, 5]);
        // The ids are the same sequence whatever the shape, so the rows are the same too.
        for (a, b) in y.to_f32().iter().zip(&long) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn a_pinned_batch_is_the_only_one() {
    let g = small_text_model();
    let p = engine().compile(&g, &[(Dim::BATCH, 4)]).unwrap();
    let free = run_text(&compile(&g), &text_inputs(4, 9));
    let pinned = run_text(&p, &text_inputs(4, 9));
    assert_eq!(pinned.shape(), [4, 9, 5]);
    close(&pinned, &free.to_f32().iter().map(|&v| v.into()).collect::<Vec<_>>(), "pinned");
    let [ids, unused, mask] = text_inputs(3, 9);
    let said = refusal(&p, &[&ids, &unused, &mask]);
    assert!(said.contains("`ids`") && said.contains("3, not 4"), "{said}");
}

#[test]
fn wrong_inputs_are_refused_by_name() {
    let p = compile(&small_text_model());
    let [ids, unused, mask] = text_inputs(2, 5);
    let said = refusal(&p, &[&ids, &unused]);
    assert!(said.contains("`mask`") && said.contains("missing"), "{said}");
    let said = refusal(&p, &[&ids, &unused, &mask, &mask]);
    assert!(said.contains("3 inputs"), "{said}");
    let said = refusal(&p, &[&mask, &unused, &mask]);
    assert!(said.contains("`ids`") && said.contains("f32"), "{said}");
    let flat = mask.reshaped(&[10]).unwrap();
    let said = refusal(&p, &[&ids, &unused, &flat]);
    assert!(said.contains("`mask`") && said.contains("1 dimensions"), "{said}");
    let longer = text_inputs(2, 6);
    let said = refusal(&p, &[&ids, &unused, &longer[2]]);
    assert!(said.contains("`mask`") && said.contains("6, not 5"), "{said}");
    let none = text_inputs(2, 0);
    let said = refusal(&p, &[&none[0], &none[1], &none[2]]);
    assert!(said.contains("`ids`") && said.contains("empty"), "{said}");
    // What was refused left nothing behind.
    assert_eq!(run_text(&p, &text_inputs(2, 5)).shape(), [2, 5, 5]);
}

#[test]
fn ids_are_checked_while_running() {
    let p = compile(&small_text_model());
    let [_, unused, mask] = text_inputs(1, 3);
    let run = |ids: [i64; 3]| {
        let ids = Tensor::new(&[1, 3], &ids).unwrap();
        p.run(&[Feed::Tensor(&ids), Feed::Tensor(&unused), Feed::Tensor(&mask)])
    };
    assert_eq!(run([-1, -10, 4]).unwrap(), run([9, 0, 4]).unwrap());
    for bad in [10, -11, i64::MAX, i64::MIN] {
        let e = run([0, bad, 1]).unwrap_err();
        assert_eq!(e.code(), "engine.run");
        assert!(e.to_string().contains(&bad.to_string()), "{e}");
    }
    assert!(run([0, 1, 2]).is_ok());
}

#[test]
fn bound_f16_inputs_are_cast_by_the_graph() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, &[Dim::BATCH, 4.into()]).unwrap();
    let delta = g.add_input("delta", DType::F16, &[4.into()]).unwrap();
    let offset = g.op("Cast", &[delta], Attrs::none().with("to", 1)).unwrap();
    let y = g.op("Add", &[x, offset], Attrs::none()).unwrap();
    g.outputs = vec![y, x];
    let engine = engine();
    let p = engine.compile(&g, &[]).unwrap();
    let delta = Tensor::vector(&[0.5f32, -1.0, 0.25, 8.0]).to_f16();
    let bound = engine.bind(&delta).unwrap();
    assert_eq!(bound.bytes(), 8);
    let x = Tensor::new(&[2, 4], &[1f32; 8]).unwrap();
    for _ in 0..2 {
        let y = p.run(&[Feed::Tensor(&x), Feed::Bound(&bound)]).unwrap();
        assert_eq!(&y[0].to_f32()[..4], [1.5, 0.0, 1.25, 9.0]);
        assert_eq!(y[1], x);
    }
    let wide = engine.bind(&Tensor::vector(&[0f32; 4])).unwrap();
    let e = p.run(&[Feed::Tensor(&x), Feed::Bound(&wide)]).unwrap_err();
    assert!(e.to_string().contains("`delta`"), "{e}");
}

#[test]
fn threads_share_one_program() {
    for engine in [engine(), engine_on(2)] {
        let w = weight(96, 200, DType::I8);
        let mut g = Graph::new();
        let x = g.add_input("x", DType::F32, &[Dim::BATCH, 96.into()]).unwrap();
        let h = linear(&mut g, x, &w, false);
        let y = linear(&mut g, h, &w, true);
        g.outputs = vec![y];
        let p = engine.compile(&g, &[]).unwrap();
        std::thread::scope(|s| {
            for t in 0..2 {
                let p = &p;
                s.spawn(move || {
                    let rows = 3 + t;
                    let x = Tensor::new(&[rows, 96], &noise(rows * 96, t as u64)).unwrap();
                    let first = run(p, &[&x]);
                    for _ in 0..20 {
                        assert_eq!(run(p, &[&x]), first);
                    }
                });
            }
        });
    }
}

#[test]
fn outputs_may_be_constants_and_may_repeat() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, &[Dim::BATCH]).unwrap();
    let c = g.add_constant("c", Tensor::vector(&[3i64, 4]));
    let y = g.op("Neg", &[x], Attrs::none()).unwrap();
    let n = g.op("Shape", &[y], Attrs::none()).unwrap();
    g.outputs = vec![c, y, y, n];
    let out = run(&compile(&g), &[&Tensor::vector(&[1f32, 2.0, 3.0])]);
    assert_eq!(out[0], Tensor::vector(&[3i64, 4]));
    assert_eq!(out[1], Tensor::vector(&[-1f32, -2.0, -3.0]));
    assert_eq!(out[2], out[1]);
    assert_eq!(out[3], Tensor::vector(&[3i64]));
}

#[test]
fn tokens_are_counted_in_i64() {
    let mut g = Graph::new();
    let ids = g.add_input("ids", DType::I64, &[Dim::BATCH, Dim::SEQUENCE]).unwrap();
    let zero = g.add_constant("zero", Tensor::scalar(0i64));
    let axis = g.add_constant("axis", Tensor::scalar(1i64));
    let real = g.op("Greater", &[ids, zero], Attrs::none()).unwrap();
    let real = g.op("Cast", &[real], Attrs::none().with("to", 7)).unwrap();
    for x in [ids, real] {
        let sum = g.op("CumSum", &[x, axis], Attrs::none()).unwrap();
        g.outputs.push(sum);
    }
    let ids = Tensor::new(&[1, 4], &[5i64, 1 << 40, 0, 3]).unwrap();
    let out = run(&compile(&g), &[&ids]);
    let big = (1 << 40) + 5;
    assert_eq!(out[0], Tensor::new(&[1, 4], &[5i64, big, big, big + 3]).unwrap());
    assert_eq!(out[1], Tensor::new(&[1, 4], &[1i64, 2, 2, 3]).unwrap());
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let mut g = small_text_model();
    g.nodes[0].op = "FrozenNothing".into();
    let e = engine().compile(&g, &[]).err().unwrap();
    assert_eq!(e.code(), "engine.compile");
    assert!(e.to_string().contains("FrozenNothing"), "{e}");
    let mut g = small_text_model();
    g.nodes.remove(0);
    let e = engine().compile(&g, &[]).err().unwrap();
    assert!(e.to_string().contains("before it is made"), "{e}");
}

fn tensors(path: &std::path::Path) -> HashMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: &str, view: safetensors::tensor::TensorView| {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::I64 => DType::I64,
            other => panic!("{name}: {other:?}"),
        };
        (name.to_owned(), Tensor::from_bytes(dtype, view.shape(), view.data()).unwrap())
    };
    file.tensors().into_iter().map(|(name, view)| read(&name, view)).collect()
}

/// Runs `g` on the two inputs of an export and compares with what torch gave.
fn agrees_with_torch(export: &str, g: &Graph, pins: &[(Dim, usize)], cases: &[&str]) {
    let io = tensors(&fixture(&format!("exports/{export}/io.safetensors")));
    let p = engine_on(2).compile(g, pins).unwrap_or_else(|e| panic!("{export}: {e}"));
    for case in cases {
        let inputs: Vec<Feed> =
            p.inputs().iter().map(|name| Feed::Tensor(&io[&format!("{case}.{name}")])).collect();
        let have = p.run(&inputs).unwrap_or_else(|e| panic!("{export} {case}: {e}"));
        let want = &io[&format!("{case}.last_hidden_state")];
        assert_eq!(have[0].shape(), want.shape(), "{export} {case}");
        for (h, w) in have[0].to_f32().iter().zip(want.to_f32().iter()) {
            assert!((h - w).abs() < 2e-5, "{export} {case}: {h}, not {w}");
        }
    }
}

#[test]
fn exports_run_as_in_torch() {
    for export in [
        "bert-additive",
        "bert-dynamo",
        "bert-eager",
        "bert-external",
        "bert-legacy",
        "roberta-dynamo",
        "roberta-legacy",
        "vit-dynamo",
        "vit-legacy",
    ] {
        let path = fixture(&format!("exports/{export}/model.onnx"));
        let mut g = onnx::read(&path).unwrap();
        canonicalise(&mut g).unwrap();
        padding_masks(&mut g).unwrap();
        agrees_with_torch(export, &g, &[], &["a", "b"]);
        agrees_with_torch(export, &g, &[(Dim::BATCH, 3)], &["b"]);
    }
}

#[test]
fn a_confident_mistake_has_a_finite_loss() {
    let mut g = Graph::new();
    let x = g.add_input("x", DType::F32, &[Dim::fixed(1), Dim::fixed(3)]).unwrap();
    let y = g.op("LogSoftmax", &[x], Attrs::none().with("axis", -1i64)).unwrap();
    g.outputs = vec![y];
    let program = engine().compile(&g, &[]).unwrap();
    let x = Tensor::new(&[1, 3], &[500f32, -500.0, 0.0]).unwrap();
    let y = program.run(&[Feed::Tensor(&x)]).unwrap();
    assert_eq!(y[0].as_slice::<f32>().unwrap(), [0.0, -1000.0, -500.0]);
}
