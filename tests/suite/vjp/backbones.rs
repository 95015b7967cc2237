//! Gradients of whole exported backbones against torch.autograd: every exporter's form of the same
//! network.

use std::collections::HashSet;

use edge_tune::graph::{Dim, canonical, onnx};
use safetensors::SafeTensors;

use super::*;

/// The size of the inputs. A training program is compiled for its batch size, and tract drops a
/// broadcast of the newer exporter's attention mask where the sequence length is free.
const PINS: [(Dim, usize); 2] = [(Dim::BATCH, 2), (Dim::SEQUENCE, 12)];

fn read(path: &Path) -> Vec<(String, Tensor)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, tensor(&view))).collect()
}

fn transposed(t: &Tensor) -> Option<Tensor> {
    let &[rows, columns] = t.shape() else { return None };
    let v = t.to_f32();
    let turned: Vec<f32> =
        (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| v[i]).collect();
    Some(Tensor::new(&[columns, rows], &turned).unwrap())
}

/// The constant that holds `parameter`, and whether it is transposed: exporters rename weights.
/// Folding a batch normalisation leaves rounding behind.
fn find(graph: &Graph, parameter: &Tensor) -> Option<(ValueId, bool)> {
    let turned = transposed(parameter);
    // A weight that was transposed is no longer read in its first form.
    let index = graph.index();
    graph.values().find_map(|(id, value)| {
        let constant = value.constant.as_ref().filter(|_| !index.consumers(id).is_empty())?;
        let same = constant.len() == parameter.len()
            && constant.dtype() == DType::F32
            && (constant.to_f32().iter().zip(parameter.to_f32().iter()))
                .all(|(a, b)| (a - b).abs() < 1e-6);
        let turned = turned.as_ref() == Some(constant);
        (same || turned).then_some((id, !same))
    })
}

/// An exported backbone some of whose parameters are inputs, with the gradients of a loss.
struct Trained {
    graph: Graph,
    parameters: Vec<ValueId>,
    fed: Vec<Tensor>,
    /// What torch computes, in the order of the outputs.
    expected: Vec<(String, Tensor)>,
}

impl Trained {
    /// `chosen` selects parameters by name.
    fn new(export: &str, family: &str, chosen: impl Fn(&str) -> bool) -> Trained {
        let folder = fixture("exports").join(export);
        let mut graph = onnx::read(&folder.join("model.onnx")).unwrap();
        canonical::canonicalise(&mut graph).unwrap();
        let io = read(&folder.join("io.safetensors"));
        let reference = read(&fixture("backbone-vjp").join(format!("{family}.safetensors")));
        let get = |all: &[(String, Tensor)], name: &str| {
            all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
        };

        let inputs = graph.inputs.iter();
        let mut fed: Vec<Tensor> =
            inputs.map(|&i| get(&io, &format!("a.{}", graph.value(i).name))).collect();
        let mut parameters = Vec::new();
        let feature = match family {
            "clip-vision" => "image_embeds",
            "kwt" => "cls_feature",
            "resnet" | "mobilenet" => "features",
            _ => "last_hidden_state",
        };
        let mut expected = vec![("output".to_owned(), get(&io, &format!("a.{feature}")))];
        for (name, parameter) in &reference {
            let Some(name) = name.strip_prefix("p.").filter(|n| chosen(n)) else { continue };
            let (constant, turned) =
                find(&graph, parameter).unwrap_or_else(|| panic!("{export} has no {name}"));
            let held = graph.constant(constant).unwrap().clone();
            let shape: Vec<Dim> = held.shape().iter().map(|&d| d.into()).collect();
            let input = graph.add_input(name, DType::F32, &shape).unwrap();
            graph.replace_uses(constant, input, &HashSet::new());
            let gradient = get(&reference, &format!("g.{name}"));
            let gradient = if turned { transposed(&gradient).unwrap() } else { gradient };
            expected.push((name.to_owned(), gradient.reshaped(held.shape()).unwrap()));
            fed.push(held);
            parameters.push(input);
        }
        let y = graph.find(feature).unwrap();
        let shape = graph.shape(y).to_vec();
        let gy = graph.add_input("gy", DType::F32, &shape).unwrap();
        fed.push(get(&reference, "gy"));
        let product = op(&mut graph, "Mul", &[y, gy]);
        let loss = graph.op("ReduceSum", &[product], Attrs::none().with("keepdims", 0)).unwrap();
        let grads = gradients(&mut graph, loss, &parameters).unwrap();
        graph.outputs = [&[y], grads.as_slice()].concat();
        graph.prune();
        Trained { graph, parameters, fed, expected }
    }

    fn compare(&self, outputs: &[Tensor]) {
        assert_eq!(outputs.len(), self.expected.len());
        for ((name, want), have) in self.expected.iter().zip(outputs) {
            let d = difference(have, want);
            assert!(d < TOLERANCE, "{name} is off by {d:e}");
        }
    }
}

fn check(export: &str, family: &str) {
    let trained = Trained::new(export, family, |_| true);
    assert!(trained.parameters.len() >= 8);
    trained.compare(&run_pinned(&trained.graph, &trained.fed, &PINS).unwrap());
}

/// With a delta in the last of two layers, one tensor per example is kept, and what is computed
/// from it is what torch computes.
fn check_cut(export: &str, family: &str, last_layer: &str) {
    let trained = Trained::new(export, family, |name| name.contains(last_layer));
    let graph = &trained.graph;
    let cut = frontier(graph, &trained.parameters);
    assert_eq!(cut.values.len(), 1, "{export}: {:?}", cut.values);
    let (prefix, rest) = split(graph, &cut).unwrap();
    let feed = |part: &Graph, kept: &[Tensor]| -> Vec<Tensor> {
        let place = |i: &ValueId| graph.inputs.iter().position(|j| i == j);
        let own = part.inputs.iter().filter_map(place).map(|i| trained.fed[i].clone());
        own.chain(kept.iter().cloned()).collect()
    };
    let kept = run_pinned(&prefix, &feed(&prefix, &[]), &PINS).unwrap();
    trained.compare(&run_pinned(&rest, &feed(&rest, &kept), &PINS).unwrap());
}

#[test]
fn bert() {
    for export in ["bert-dynamo", "bert-legacy", "bert-eager"] {
        check(export, "bert");
    }
}

#[test]
fn roberta() {
    for export in ["roberta-dynamo", "roberta-legacy"] {
        check(export, "roberta");
    }
}

#[test]
fn vit() {
    for export in ["vit-dynamo", "vit-legacy"] {
        check(export, "vit");
    }
}

#[test]
fn clip_vision() {
    for export in ["clip-vision-dynamo", "clip-vision-legacy"] {
        check(export, "clip-vision");
    }
}

#[test]
fn keyword_spotter() {
    for export in ["kwt-dynamo", "kwt-legacy"] {
        check(export, "kwt");
    }
}

#[test]
fn convolutional_networks() {
    for export in ["resnet-dynamo", "resnet-legacy", "resnet-batchnorm"] {
        check(export, "resnet");
    }
    check("mobilenet-dynamo", "mobilenet");
}

#[test]
fn a_cut_before_the_last_layer() {
    check_cut("bert-dynamo", "bert", "encoder.layer.1.");
    check_cut("vit-legacy", "vit", "layers.1.");
}
