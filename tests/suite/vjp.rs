//! Every gradient rule against torch.autograd, run by the tract engine.
//!
//! Each file of `tests/fixtures/vjp` holds one operator: its inputs `x<i>`, outputs `y<i>`, the
//! gradients of the outputs `gy<i>` and those of the inputs `gx<i>`. The loss here is the sum of
//! y times gy, so its gradients are gx.

mod backbones;

use std::path::{Path, PathBuf};

use edge_tune::autodiff::{cross_entropy, frontier, gradients, split};
use edge_tune::engine::Feed;
use edge_tune::graph::{Attr, Attrs, Dim, Graph, GraphError, ValueId};
use edge_tune::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::support::{engine, fixture};

const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Case {
    op: String,
    #[serde(default)]
    attrs: serde_json::Map<String, serde_json::Value>,
    inputs: Vec<Option<String>>,
    differentiable: Vec<usize>,
    outputs: usize,
}

/// Cases whose forward operator tract lacks: only the gradients, which do not read it, are run.
const NO_FORWARD: [&str; 2] = ["batch-norm", "matmul-vector-vector"];

struct Fixture {
    name: String,
    case: Case,
    bytes: Vec<u8>,
}

/// A graph with the tensors to feed and to expect.
struct Program {
    graph: Graph,
    fed: Vec<Tensor>,
    expected: Vec<(String, Tensor)>,
}

fn tensor(view: &TensorView<'_>) -> Tensor {
    let dtype = match view.dtype() {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::I64 => DType::I64,
        safetensors::Dtype::I8 => DType::I8,
        safetensors::Dtype::BOOL => DType::Bool,
        other => panic!("type {other:?}"),
    };
    Tensor::from_bytes(dtype, view.shape(), view.data()).unwrap()
}

impl Fixture {
    fn read(path: &Path) -> Fixture {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let case = header.metadata().as_ref().and_then(|m| m.get("case")).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Fixture { name, case: serde_json::from_str(case).unwrap(), bytes }
    }

    fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        tensor(&file.tensor(name).unwrap())
    }

    fn attrs(&self) -> Attrs {
        self.case.attrs.iter().fold(Attrs::none(), |attrs, (name, v)| {
            let attr = match v {
                serde_json::Value::Number(n) if n.is_i64() => Attr::Int(n.as_i64().unwrap()),
                serde_json::Value::Number(n) => Attr::Float(n.as_f64().unwrap() as f32),
                serde_json::Value::String(s) => Attr::Str(s.clone()),
                serde_json::Value::Array(a) => {
                    Attr::Ints(a.iter().map(|v| v.as_i64().unwrap()).collect())
                }
                other => panic!("attribute {name} is {other}"),
            };
            attrs.with(name, attr)
        })
    }

    /// The differentiable inputs that share the rank and the first dimension of the largest.
    fn inputs_alike(&self) -> Vec<usize> {
        let shape = |i: usize| -> Vec<usize> {
            let name = self.case.inputs[i].as_ref().unwrap();
            self.tensor(name).shape().to_vec()
        };
        let inputs = &self.case.differentiable;
        let largest = inputs.iter().rev().map(|&i| shape(i)).max_by_key(Vec::len).unwrap();
        let alike = |s: Vec<usize>| s.len() == largest.len() && s.first() == largest.first();
        inputs.iter().copied().filter(|&i| alike(shape(i))).collect()
    }

    /// The program that computes outputs and gradients, with dimension 0 of the inputs `free`
    /// varying over the probe points. `None` if that makes no sense for the case.
    fn program(&self, free: &[usize]) -> Result<Option<Program>, GraphError> {
        let Case { op, inputs, differentiable, outputs, .. } = &self.case;
        let mut graph = Graph::new();
        let (mut ids, mut fed) = (Vec::new(), Vec::new());
        let mut varying = None;
        for (i, name) in inputs.iter().enumerate() {
            let Some(t) = name.as_ref().map(|name| self.tensor(name)) else {
                ids.push(None);
                continue;
            };
            if !differentiable.contains(&i) {
                ids.push(Some(graph.add_constant(&format!("x{i}"), t)));
                continue;
            }
            let mut dims: Vec<Dim> = t.shape().iter().map(|&d| d.into()).collect();
            if free.contains(&i) {
                let n = t.shape()[0];
                dims[0] = Dim([n, n + 1, n + 2]);
                varying = Some(dims[0]);
            }
            ids.push(Some(graph.add_input(&format!("x{i}"), t.dtype(), &dims)?));
            fed.push(t);
        }
        let forward = !NO_FORWARD.contains(&self.name.as_str());
        let ys = match graph.op_n(op, &ids, self.attrs(), *outputs) {
            Ok(ys) if free.is_empty() || forward => ys,
            // Another input fixes the dimension.
            _ if !free.is_empty() => return Ok(None),
            other => other?,
        };
        let mut expected = Vec::new();
        let mut loss: Option<ValueId> = None;
        for (k, &y) in ys.iter().enumerate() {
            if forward {
                expected.push((format!("y{k}"), self.tensor(&format!("y{k}"))));
            }
            let gy = self.tensor(&format!("gy{k}"));
            let shape = graph.shape(y).to_vec();
            if shape.iter().any(|d| d.constant().is_none() && Some(*d) != varying) {
                // An engine cannot know that the cotangent has a multiple of the free size.
                return Ok(None);
            }
            let gy_id = graph.add_input(&format!("gy{k}"), gy.dtype(), &shape)?;
            fed.push(gy);
            let product = graph.op("Mul", &[y, gy_id], Attrs::none())?;
            let sum = graph.op("ReduceSum", &[product], Attrs::none().with("keepdims", 0))?;
            loss = Some(match loss {
                None => sum,
                Some(other) => graph.op("Add", &[other, sum], Attrs::none())?,
            });
        }
        let wrt: Vec<ValueId> = differentiable.iter().map(|&i| ids[i].unwrap()).collect();
        let grads = gradients(&mut graph, loss.unwrap(), &wrt)?;
        graph.outputs = ys.into_iter().filter(|_| forward).chain(grads).collect();
        for i in differentiable {
            expected.push((format!("gx{i}"), self.tensor(&format!("gx{i}"))));
        }
        graph.prune();
        Ok(Some(Program { graph, fed, expected }))
    }
}

fn run(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    run_pinned(graph, inputs, &[])
}

fn run_pinned(
    graph: &Graph,
    inputs: &[Tensor],
    pins: &[(Dim, usize)],
) -> Result<Vec<Tensor>, String> {
    let program = engine().compile(graph, pins).map_err(|e| e.to_string())?;
    let feeds: Vec<Feed<'_>> = inputs.iter().map(Feed::Tensor).collect();
    program.run(&feeds).map_err(|e| e.to_string())
}

/// The largest difference relative to the size of `want`, with a floor for gradients that are
/// analytically zero.
fn difference(have: &Tensor, want: &Tensor) -> f32 {
    if have.shape() != want.shape() {
        return f32::INFINITY;
    }
    let (have, want) = (have.to_f32(), want.to_f32());
    let size = want.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
    have.iter().zip(want.iter()).fold(0.0, |m, (a, b)| {
        // NaN must count as a difference.
        let d = (a - b).abs() / size;
        if d.is_nan() { f32::INFINITY } else { m.max(d) }
    })
}

fn fixtures() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(fixture("vjp"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no fixtures");
    files
}

fn check(program: &Program) -> Result<(), String> {
    let Program { graph, fed, expected } = program;
    let outputs = run(graph, fed)?;
    for ((name, want), have) in expected.iter().zip(&outputs) {
        let d = difference(have, want);
        if d > TOLERANCE {
            return Err(format!("{name} {:?} is off by {d:e}, {:?}", want.shape(), have.shape()));
        }
    }
    Ok(())
}

/// Runs `test` on every fixture and returns how many it covered.
fn for_each(test: impl Fn(&Fixture) -> Result<bool, String>) -> usize {
    let mut failed = Vec::new();
    let mut covered = 0;
    for path in fixtures() {
        let fixture = Fixture::read(&path);
        match test(&fixture) {
            Ok(done) => covered += usize::from(done),
            Err(e) => failed.push(format!("{}: {e}", fixture.name)),
        }
    }
    assert!(failed.is_empty(), "{} of them failed:\n{}", failed.len(), failed.join("\n"));
    covered
}

#[test]
fn every_rule_agrees_with_torch() {
    let covered = for_each(|fixture| {
        let program = fixture.program(&[]).map_err(|e| e.to_string())?;
        check(&program.ok_or("no program")?).map(|()| true)
    });
    assert!(covered >= 200, "{covered} cases");
}

/// The same with a first dimension that is not known when the program is compiled: of all inputs
/// that have it, or of the first input alone.
#[test]
fn rules_hold_with_a_free_dimension() {
    let covered = for_each(|fixture| {
        let mut done = false;
        for free in [fixture.inputs_alike(), vec![0]] {
            if let Some(program) = fixture.program(&free).map_err(|e| e.to_string())? {
                check(&program).map_err(|e| format!("inputs {free:?} free: {e}"))?;
                done = true;
            }
        }
        Ok(done)
    });
    assert!(covered >= 170, "{covered} cases");
}

/// Numbers in -1..1 that look random and are the same everywhere.
fn noise(seed: u32, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let v: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    Tensor::new(shape, &v).unwrap()
}

fn op(g: &mut Graph, op: &str, inputs: &[ValueId]) -> ValueId {
    g.op(op, inputs, Attrs::none()).unwrap()
}

/// A residual network over tokens: two layers of which the second has a low-rank delta, mean
/// pooling, a classifier.
struct Network {
    graph: Graph,
    delta: Vec<ValueId>,
    fed: Vec<Tensor>,
}

const ROWS: usize = 4;
const WIDTH: usize = 6;
const CLASSES: usize = 3;

fn network() -> Network {
    let mut g = Graph::new();
    let width = Dim::fixed(WIDTH);
    let x = g.add_input("x", DType::F32, &[Dim::BATCH, Dim::SEQUENCE, width]).unwrap();
    let a = g.add_input("a", DType::F32, &[width, 2.into()]).unwrap();
    let b = g.add_input("b", DType::F32, &[2.into(), width]).unwrap();
    let labels = g.add_input("labels", DType::I64, &[Dim::BATCH]).unwrap();
    let weight = g.add_input("weight", DType::F32, &[]).unwrap();
    let gamma = g.add_constant("gamma", noise(1, &[WIDTH]));
    let axis = g.ints(&[1]);
    let mut h = x;
    for layer in 0..2 {
        let w = g.add_constant("w", noise(2 + layer, &[WIDTH, WIDTH]));
        let mut y = op(&mut g, "MatMul", &[h, w]);
        if layer == 1 {
            let low = op(&mut g, "MatMul", &[h, a]);
            let up = op(&mut g, "MatMul", &[low, b]);
            y = op(&mut g, "Add", &[y, up]);
        }
        let y = op(&mut g, "Gelu", &[y]);
        let sum = op(&mut g, "Add", &[y, h]);
        h = op(&mut g, "LayerNormalization", &[sum, gamma]);
    }
    let pooled = g.op("ReduceMean", &[h, axis], Attrs::none().with("keepdims", 0)).unwrap();
    let head = g.add_constant("head", noise(5, &[WIDTH, CLASSES]));
    let logits = op(&mut g, "MatMul", &[pooled, head]);
    let loss = cross_entropy(&mut g, logits, labels, weight).unwrap();
    let delta = vec![a, b];
    let grads = gradients(&mut g, loss, &delta).unwrap();
    g.outputs = [&[loss], grads.as_slice()].concat();
    let fed = vec![
        noise(6, &[ROWS, 5, WIDTH]),
        noise(7, &[WIDTH, 2]),
        noise(8, &[2, WIDTH]),
        Tensor::vector(&[0i64, 2, 1, 1]),
        Tensor::scalar(1.0 / ROWS as f32),
    ];
    Network { graph: g, delta, fed }
}

#[test]
fn the_parts_of_a_cut_compute_the_whole() {
    let Network { graph, delta, fed } = network();
    let whole = run(&graph, &fed).unwrap();
    let cut = frontier(&graph, &delta);
    assert_eq!(cut.values.len(), 1);
    assert_eq!(cut.bytes_per_example(&graph), 7 * WIDTH * 4);
    let (prefix, rest) = split(&graph, &cut).unwrap();
    let feed = |g: &Graph, extra: &[Tensor]| -> Vec<Tensor> {
        let own = g.inputs.iter().filter_map(|i| graph.inputs.iter().position(|j| i == j));
        own.map(|i| fed[i].clone()).chain(extra.iter().cloned()).collect()
    };
    let kept = run(&prefix, &feed(&prefix, &[])).unwrap();
    let parts = run(&rest, &feed(&rest, &kept)).unwrap();
    for (part, whole) in parts.iter().zip(&whole) {
        assert!(difference(part, whole) < TOLERANCE);
    }
}

/// Losses and gradients of micro-batches, the last one padded with a row that counts nothing, add
/// up to those of the batch.
#[test]
fn micro_batches_add_up() {
    let Network { graph, fed, .. } = network();
    let whole = run(&graph, &fed).unwrap();
    let x = fed[0].to_f32();
    let row = 5 * WIDTH;
    let part = |rows: std::ops::Range<usize>, labels: &[i64]| {
        let mut fed = fed.clone();
        fed[0] = Tensor::new(&[2, 5, WIDTH], &x[rows.start * row..rows.end * row]).unwrap();
        fed[3] = Tensor::vector(labels);
        run(&graph, &fed).unwrap()
    };
    let parts = [part(0..2, &[0, 2]), part(2..4, &[1, -1]), part(2..4, &[-1, 1])];
    for (k, whole) in whole.iter().enumerate() {
        let mut sum = vec![0f32; whole.len()];
        for part in &parts {
            sum.iter_mut().zip(part[k].to_f32().iter()).for_each(|(s, v)| *s += v);
        }
        assert!(difference(&Tensor::new(whole.shape(), &sum).unwrap(), whole) < TOLERANCE);
    }
}

#[test]
fn cross_entropy_is_that_of_the_softmax() {
    let mut g = Graph::new();
    let logits = g.add_input("logits", DType::F32, &[Dim::BATCH, CLASSES.into()]).unwrap();
    let labels = g.add_input("labels", DType::I64, &[Dim::BATCH]).unwrap();
    let weight = g.add_input("weight", DType::F32, &[]).unwrap();
    let loss = cross_entropy(&mut g, logits, labels, weight).unwrap();
    let grads = gradients(&mut g, loss, &[logits]).unwrap();
    g.outputs = vec![loss, grads[0]];
    let minus = f32::NEG_INFINITY;
    let rows = [0.0, 0.0, 2f32.ln(), 1.0, minus, 1.0, 5.0, 6.0, 7.0];
    let fed = [
        Tensor::new(&[3, 3], &rows).unwrap(),
        Tensor::vector(&[2i64, 0, -1]),
        Tensor::scalar(0.5f32),
    ];
    let out = run(&g, &fed).unwrap();
    // Softmax of the rows: [1/4, 1/4, 1/2], [1/2, 0, 1/2]; the third does not count.
    assert!((out[0].to_f32()[0] - 0.5 * (2f32.ln() + 2f32.ln())).abs() < 1e-5);
    let want = [0.125, 0.125, -0.25, -0.25, 0.0, 0.25, 0.0, 0.0, 0.0];
    let want = Tensor::new(&[3, 3], &want.map(|v: f32| v)).unwrap();
    assert!(difference(&out[1], &want) < TOLERANCE, "{:?}", out[1].to_f32());
}

/// The gradient through a frozen int8 weight is that through the same weight in f32.
#[test]
fn frozen_weights_give_the_gradient_of_their_values() {
    let q: Vec<i8> = (0..WIDTH * 4).map(|i| (i * 37 % 255) as u8 as i8).collect();
    let scale = [0.01f32, 0.02, 0.005, 0.03];
    let dense: Vec<f32> = q.iter().enumerate().map(|(i, &v)| f32::from(v) * scale[i % 4]).collect();
    let fed = [noise(1, &[3, 5, WIDTH]), noise(2, &[3, 5, 4])];
    let program = |frozen: bool| {
        let mut g = Graph::new();
        let dims = |n: usize| [Dim::BATCH, Dim::SEQUENCE, n.into()];
        let x = g.add_input("x", DType::F32, &dims(WIDTH)).unwrap();
        let gy = g.add_input("gy", DType::F32, &dims(4)).unwrap();
        let y = if frozen {
            let w = g.add_constant("w", Tensor::new(&[WIDTH, 4], &q).unwrap());
            let s = g.add_constant("s", Tensor::vector(&scale));
            op(&mut g, "FrozenLinear", &[x, w, s])
        } else {
            let w = g.add_constant("w", Tensor::new(&[WIDTH, 4], &dense).unwrap());
            op(&mut g, "MatMul", &[x, w])
        };
        let product = op(&mut g, "Mul", &[y, gy]);
        let loss = g.op("ReduceSum", &[product], Attrs::none().with("keepdims", 0)).unwrap();
        let grads = gradients(&mut g, loss, &[x]).unwrap();
        g.outputs = [&[y], grads.as_slice()].concat();
        run(&g, &fed).unwrap()
    };
    for (frozen, dense) in program(true).iter().zip(&program(false)) {
        assert!(difference(frozen, dense) < TOLERANCE);
    }
}
