//! Tests: CLIP image towers, keyword spotters and convolutional networks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_tune::autodiff::gradients;
use edge_tune::backbone::{Backbone, FRONTEND_FILE, Pooling, Prepare, Weights, prepare, site};
use edge_tune::engine::Feed;
use edge_tune::graph::canonical::canonicalise;
use edge_tune::graph::sites::{Modality, Role, Sites, discover};
use edge_tune::graph::{Attrs, Dim, Graph, ValueId, onnx};
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{Model, Sample, TensorForm, build};
use edge_tune::tensor::{DType, Tensor};
use edge_tune::train::loss;

use crate::support::{engine, fixture, shared, tensors};

fn export(name: &str) -> PathBuf {
    fixture(&format!("exports/{name}/model.onnx"))
}

fn sites_of(model: &Path) -> (Graph, Sites) {
    let mut graph = onnx::read(model).unwrap_or_else(|e| panic!("{e}"));
    canonicalise(&mut graph).unwrap();
    let sites = discover(&graph).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    (graph, sites)
}

fn prepared(model: &Path, weights: Weights) -> (tempfile::TempDir, Arc<Backbone>) {
    let dir = tempfile::tempdir().unwrap();
    let options = Prepare { weights, ..Prepare::new(model, dir.path().join("backbone")) };
    let manifest = prepare(&options, &*engine(), |_| ())
        .unwrap_or_else(|e| panic!("{} {weights}: {e}", model.display()));
    let r = &manifest.report;
    println!(
        "{} {weights}: {}, cosine {:.6}, largest difference {:.1e}, {} quantized, {} bytes",
        model.display(),
        manifest.family,
        r.cosine,
        r.max_difference,
        r.quantized,
        manifest.bytes()
    );
    let backbone = Backbone::load(&options.out).unwrap();
    backbone.verify().unwrap();
    (dir, backbone)
}

/// Runs a graph that reads one input.
fn run(graph: &Graph, x: &Tensor) -> Vec<Tensor> {
    engine().compile(graph, &[]).unwrap().run(&[Feed::Tensor(x)]).unwrap()
}

fn cosine(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f32(), b.to_f32());
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.to_f32().iter().zip(b.to_f32().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Export, family, name of the feature among torch's outputs, pooling.
const EXPORTS: &[(&str, &str, &str, Pooling)] = &[
    ("clip-vision-legacy", "clip-vision", "image_embeds", Pooling::Output),
    ("clip-vision-dynamo", "clip-vision", "image_embeds", Pooling::Output),
    ("kwt-legacy", "kwt", "cls_feature", Pooling::Cls),
    ("kwt-dynamo", "kwt", "cls_feature", Pooling::Cls),
    ("kwt-qdq", "kwt", "cls_feature", Pooling::Cls),
    ("resnet-legacy", "cnn", "features", Pooling::Output),
    ("resnet-dynamo", "cnn", "features", Pooling::Output),
    ("resnet-batchnorm", "cnn", "features", Pooling::Output),
    ("mobilenet-legacy", "cnn", "features", Pooling::Output),
    ("mobilenet-dynamo", "cnn", "features", Pooling::Output),
    ("mobilenet-qoperator", "cnn", "features", Pooling::Output),
];

#[test]
fn features_equal_torch() {
    for &(name, family, feature, pooling) in EXPORTS {
        let io = tensors(&fixture(&format!("exports/{name}/io.safetensors")));
        for weights in [Weights::F32, Weights::Int8] {
            let (_dir, backbone) = prepared(&export(name), weights);
            let manifest = backbone.manifest();
            assert_eq!((manifest.family.as_str(), manifest.pooling), (family, pooling), "{name}");
            let settings = Settings::resolve(methods::find("linear").unwrap(), []).unwrap();
            let plan = methods::find("linear").unwrap().plan(manifest, 3, &settings).unwrap();
            let (mut graph, attached, _) =
                build(&backbone, &plan, &plan.tensors, TensorForm::Float).unwrap();
            graph.outputs = vec![attached.feature.unwrap()];
            graph.prune();
            graph.inputs.truncate(1);
            for case in ["a", "b"] {
                let x = &io[&format!("{case}.{}", backbone.sites().input)];
                let have = run(&graph, x).swap_remove(0);
                let want = &io[&format!("{case}.{feature}")];
                let (worst, cosine) = (difference(&have, want), cosine(&have, want));
                println!("{name} {weights} {case}: difference {worst:.1e}, cosine {cosine:.6}");
                // These weights were rounded before they were exported.
                let rounded = name.ends_with("qdq") || name.ends_with("qoperator");
                match weights {
                    Weights::F32 if !rounded => assert!(worst < 1e-4, "{name} {case}: {worst}"),
                    _ => assert!(cosine > 0.995, "{name} {case}: {cosine}"),
                }
            }
        }
    }
}

#[test]
fn encoder_sites() {
    for &(name, family, ..) in EXPORTS.iter().filter(|e| e.1 != "cnn") {
        let (graph, sites) = sites_of(&export(name));
        assert_eq!(sites.layers.len(), 2, "{name}");
        assert_eq!(sites.linears.len(), 2 * Role::ALL.len(), "{name}");
        assert_eq!(sites.pre_norm, family == "clip-vision", "{name}");
        let clip = family == "clip-vision";
        let modality = if clip { Modality::Image } else { Modality::Audio };
        assert_eq!((sites.modality, sites.heads), (modality, if clip { 4 } else { 1 }), "{name}");
        assert_eq!(sites.pooled_width, clip.then_some(24), "{name}");
        assert_eq!(sites.tokens.after, 1, "{name}");
        let rows = if clip { 17 } else { 13 };
        assert_eq!(graph.shape(site(&graph, &sites.tokens.value).unwrap())[1], rows.into());
        let keys = graph.shape(site(&graph, &sites.layers[1].keys).unwrap());
        assert_eq!(keys[2..], [sites.heads.into(), (sites.width / sites.heads).into()], "{name}");
        // KWT has no norm but those of its blocks; CLIP's last one is on the class row alone.
        let whole = |n: &str| n == "embedding_norm" || n == "final_norm";
        let count = sites.norms.iter().filter(|n| whole(&n.name)).count();
        assert_eq!((sites.norms.len(), count), if clip { (6, 2) } else { (4, 0) }, "{name}");
        assert!(sites.mask.is_none() && sites.positions.is_none() && sites.cnn.is_none());
        let gelus = graph.nodes.iter().filter(|n| n.op == "Gelu").count();
        assert_eq!(gelus, if clip { 0 } else { 2 }, "{name}");
    }
}

#[test]
fn convolution_sites() {
    for &(name, family, ..) in EXPORTS.iter().filter(|e| e.1 == "cnn") {
        let (graph, sites) = sites_of(&export(name));
        assert_eq!(sites.modality, Modality::Image, "{name} {family}");
        assert!(!graph.nodes.iter().any(|n| n.op == "BatchNormalization"), "{name}");
        let cnn = sites.cnn.unwrap();
        let blocks: Vec<_> =
            cnn.blocks.iter().map(|b| (b.inputs, b.outputs, b.adds, b.stride, b.stage)).collect();
        let inside: Vec<_> = cnn.convs.iter().map(|c| c.block).collect();
        if name.starts_with("resnet") {
            assert_eq!((sites.width, cnn.convs.len()), (16, 8), "{name}");
            let want = [(8, 8, true, 1, 0), (8, 16, true, 2, 1), (16, 16, true, 1, 1)];
            assert_eq!(blocks, want, "{name}");
            assert_eq!(inside.iter().filter(|b| **b == Some(1)).count(), 3, "{name}");
        } else {
            assert_eq!((sites.width, cnn.convs.len()), (20, 10), "{name}");
            let want = [(8, 6, false, 1, 0), (6, 8, false, 2, 1), (8, 8, true, 1, 1)];
            assert_eq!(blocks, want, "{name}");
            let [a, b, c] = [Some(0), Some(1), Some(2)];
            assert_eq!(inside, [None, a, a, b, b, b, c, c, c, None], "{name}");
            assert_eq!(cnn.convs[4].groups, 18, "{name}");
        }
        let pooled = site(&graph, &sites.pooled.unwrap()).unwrap();
        assert_eq!(graph.width(pooled), Some(sites.width), "{name}");
        assert_eq!(graph.rank(site(&graph, &sites.hidden).unwrap()), 4, "{name}");
    }
}

#[test]
fn methods_say_what_a_network_lacks() {
    let (_dir, backbone) = prepared(&export("resnet-dynamo"), Weights::Int8);
    for method in methods::all() {
        let settings = Settings::resolve(*method, []).unwrap();
        let plan = method.plan(backbone.manifest(), 3, &settings).map(|p| p.parameters());
        println!("{}: {plan:?}", method.name());
        let head = 3 * 16 + 3;
        match method.name() {
            "linear" => assert_eq!(plan.unwrap(), head),
            "bias" => assert_eq!(plan.unwrap(), head + 3 * 8 + 5 * 16),
            "partial" => assert_eq!(plan.unwrap(), head + 2 * (16 * 16 * 9 + 16)),
            "prototypes" | "mlp" | "side" | "lite-residual" | "tip-adapter" | "tip-adapter-f" => {
                assert!(plan.is_ok());
            }
            _ => assert_eq!(plan.unwrap_err().code(), "method.backbone"),
        }
    }
    let linear = methods::find("linear").unwrap();
    let settings = Settings::resolve(linear, [("pooling", "cls")]).unwrap();
    let refused = linear.plan(backbone.manifest(), 3, &settings).map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), "method.setting");
}

#[test]
fn a_front_end_belongs_to_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Prepare::new(export("kwt-legacy"), dir.path().join("plain"));
    let plain = prepare(&plain, &*engine(), |_| ()).unwrap();
    assert_eq!(plain.frontend, None);
    let out = dir.path().join("with");
    // Frames of ten samples.
    let mut g = Graph::new();
    let sound = g.add_input("audio", DType::F32, &[Dim::BATCH, Dim::fixed(120)]).unwrap();
    let shape = g.ints(&[-1, 12, 10]);
    g.outputs = vec![g.op("Reshape", &[sound, shape], Attrs::none()).unwrap()];
    let file = dir.path().join("frontend.onnx");
    std::fs::write(&file, onnx::write(&g, None).model).unwrap();
    let frontend = Some(file);
    let options = Prepare { frontend, ..Prepare::new(export("kwt-legacy"), &out) };
    let with = prepare(&options, &*engine(), |_| ()).unwrap();
    assert_eq!(with.frontend.as_deref(), Some(FRONTEND_FILE));
    assert!(with.has(FRONTEND_FILE) && with.digest != plain.digest);
    Backbone::load(&out).unwrap().verify().unwrap();
    let model = Model::open(&out, engine()).unwrap();
    let wav = {
        let (rate, samples) = (16_000u32, (0..60i16).map(|i| i * 500));
        let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
        let mut wav = b"RIFF".to_vec();
        wav.extend((36 + data.len() as u32).to_le_bytes());
        wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        wav.extend(rate.to_le_bytes());
        wav.extend((2 * rate).to_le_bytes());
        wav.extend(b"\x02\0\x10\0data");
        wav.extend((data.len() as u32).to_le_bytes());
        wav.extend(data);
        wav
    };
    let Sample::Dense(features) = model.sample_of_file(&wav, Path::new("a.wav")).unwrap() else {
        panic!("features are dense")
    };
    assert_eq!(features.shape(), [12, 10]);
    let features = features.as_slice::<f32>().unwrap();
    assert!((features[13] - 13.0 * 500.0 / 32_768.0).abs() < 1e-6);
    assert!(features[60..].iter().all(|&v| v == 0.0), "silence follows a short sound");
    std::fs::remove_file(out.join(FRONTEND_FILE)).unwrap();
    assert_eq!(Backbone::load(&out).unwrap_err().code(), "backbone.io");
}

/// Manifests that were written before there were sounds and convolutions keep their digest: what
/// text models do not have is not written at all.
#[test]
fn text_manifests_stay_as_they_were() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/minilm-l6");
    Backbone::load(&bundled).unwrap().verify().unwrap();
    for (name, fields) in [("bert-dynamo", 14), ("vit-dynamo", 14)] {
        let (_dir, backbone) = prepared(&export(name), Weights::Int8);
        let manifest = serde_json::to_value(backbone.manifest()).unwrap();
        assert!(manifest.get("frontend").is_none(), "{name}");
        let sites = manifest["sites"].as_object().unwrap();
        assert_eq!(sites.len(), fields, "{name}: {:?}", sites.keys().collect::<Vec<_>>());
    }
}

#[test]
fn a_pooling_that_cannot_be_is_refused() {
    for (name, pooling) in [("vit-dynamo", Pooling::Output), ("resnet-dynamo", Pooling::Cls)] {
        let dir = tempfile::tempdir().unwrap();
        let pooling = Some(pooling);
        let options = Prepare { pooling, ..Prepare::new(export(name), dir.path().join("b")) };
        let e = prepare(&options, &*engine(), |_| ()).unwrap_err();
        assert_eq!(e.code(), "backbone.pooling", "{e}");
    }
}

/// Numbers that look like a normalised picture.
fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product::<usize>();
    let at = |i: usize| (((i + seed) as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0;
    Tensor::new(shape, &(0..n).map(|i| 2.0 * (at(i) - 1.0)).collect::<Vec<_>>()).unwrap()
}

#[test]
fn kwt_as_published() {
    for name in ["kwt1_speech_transformer_fp32.onnx", "kwt1_speech_transformer_w8_qdq.onnx"] {
        let Some(model) = shared(&format!("backbones/{name}")) else { return };
        let (_, sites) = sites_of(&model);
        assert_eq!((sites.layers.len(), sites.width, sites.heads), (12, 64, 1));
        for weights in [Weights::F32, Weights::Int8] {
            let (_dir, backbone) = prepared(&model, weights);
            let m = backbone.manifest();
            assert_eq!((m.family.as_str(), m.max_length), ("kwt", 99));
            assert!(m.report.cosine > 0.999, "{name}");
        }
    }
}

#[test]
fn mobilenet_as_published() {
    let Some(model) = shared("backbones/mobilenetv2_fp32_from_int8.onnx") else { return };
    let (graph, sites) = sites_of(&model);
    let cnn = sites.cnn.as_ref().unwrap();
    assert_eq!((sites.width, cnn.convs.len(), cnn.blocks.len()), (1280, 52, 17));
    assert_eq!(cnn.blocks.iter().filter(|b| b.adds).count(), 10);
    assert_eq!(cnn.blocks.iter().map(|b| b.stride).product::<usize>(), 16);
    for weights in [Weights::F32, Weights::Int8] {
        let (_dir, backbone) = prepared(&model, weights);
        assert_eq!(backbone.manifest().pooling, Pooling::Output);
        assert!(backbone.manifest().report.cosine > 0.99);
    }
    // The same network with integer operators.
    let Some(integer) = shared("backbones/mobilenetv2-12-int8.onnx") else { return };
    let (other, found) = sites_of(&integer);
    assert_eq!(found.cnn.as_ref().unwrap().blocks.len(), 17);
    let x = noise(&[2, 3, 224, 224], 1);
    let feature = |graph: &Graph, sites: &Sites| {
        let mut graph = graph.clone();
        graph.outputs = vec![site(&graph, sites.pooled.as_ref().unwrap()).unwrap()];
        graph.prune();
        run(&graph, &x).swap_remove(0)
    };
    let (a, b) = (feature(&graph, &sites), feature(&other, &found));
    println!(
        "integer operators: cosine {:.7}, difference {:.1e}",
        cosine(&a, &b),
        difference(&a, &b)
    );
    assert!(cosine(&a, &b) > 0.999);
    prepared(&integer, Weights::Int8);
}

fn plan(backbone: &Backbone, method: &str, set: &[(&str, &str)]) -> Option<methods::Plan> {
    let method = methods::find(method).unwrap();
    let settings = Settings::resolve(method, set.iter().copied()).unwrap();
    method.plan(backbone.manifest(), 3, &settings).ok()
}

/// Keys and values that stand there twice share the attention that they had once.
#[test]
fn rows_that_repeat_the_sequence_change_nothing() {
    for name in ["kwt-legacy", "kwt-dynamo", "clip-vision-dynamo"] {
        let (_dir, backbone) = prepared(&export(name), Weights::Int8);
        let sites = backbone.sites();
        let mut plain = backbone.graph().clone();
        let rows = sites.layers.iter().flat_map(|l| [&l.keys, &l.values]);
        plain.outputs =
            [&sites.hidden].into_iter().chain(rows).map(|n| site(&plain, n).unwrap()).collect();
        plain.prune();
        let shape = plain.shape(plain.inputs[0])[1..].iter().map(|d| d.constant().unwrap());
        let shape: Vec<usize> = [1].into_iter().chain(shape).collect();
        let x = noise(&shape, 3);
        let found = run(&plain, &x);
        let count = found[1].shape()[1].to_string();
        let plan = plan(&backbone, "prefix-tuning", &[("rows", &count)]).unwrap();
        let (mut graph, _, _) = build(&backbone, &plan, &plan.tensors, TensorForm::Float).unwrap();
        graph.outputs = vec![site(&graph, &sites.hidden).unwrap()];
        graph.prune();
        let data: Vec<_> = graph
            .inputs
            .clone()
            .into_iter()
            .filter(|&v| !graph.value(v).name.starts_with("head."))
            .collect();
        graph.inputs = data;
        let program = engine().compile(&graph, &[]).unwrap();
        let tensor = |name: &String| match name.split('.').collect::<Vec<_>>()[..] {
            ["prefix", layer, what] => {
                let at = 1 + 2 * layer.parse::<usize>().unwrap() + usize::from(what == "value");
                found[at].reshaped(&found[at].shape()[1..]).unwrap()
            }
            _ => x.clone(),
        };
        let feeds: Vec<Tensor> = program.inputs().iter().map(tensor).collect();
        let feeds: Vec<Feed> = feeds.iter().map(Feed::Tensor).collect();
        let have = program.run(&feeds).unwrap().swap_remove(0);
        assert!(difference(&have, &found[0]) < 1e-4, "{name}");
    }
}

/// The gradients of a plan's tensors for two fixed examples.
fn gradients_of(backbone: &Backbone, plan: &methods::Plan) -> Vec<Tensor> {
    let specs = plan.trained();
    let given = plan.given();
    let (mut graph, attached, _) = build(backbone, plan, &given, TensorForm::Float).unwrap();
    let labels = graph.add_input("labels", DType::I64, &[Dim::BATCH]).unwrap();
    let weight = graph.add_input("weight", DType::F32, &[]).unwrap();
    let loss = loss(&mut graph, plan, &attached, &[], (labels, weight)).unwrap();
    let wrt: Vec<_> = specs.iter().map(|s| site(&graph, &s.name).unwrap()).collect();
    graph.outputs = gradients(&mut graph, loss, &wrt).unwrap();
    graph.prune();
    let program = engine().compile(&graph, &[(Dim::BATCH, 2)]).unwrap();
    let fed = |v: &ValueId| {
        let value = graph.value(*v);
        match value.name.as_str() {
            "labels" => Tensor::vector(&[0i64, 2]),
            "weight" => Tensor::scalar(0.5f32),
            name => {
                let shape = value.shape.iter().map(|d| d.constant().unwrap_or(2));
                // A different picture or start for every input.
                let seed = name.bytes().map(usize::from).sum();
                noise(&shape.collect::<Vec<_>>(), seed)
            }
        }
    };
    let feeds: Vec<Tensor> = graph.inputs.iter().map(fed).collect();
    program.run(&feeds.iter().map(Feed::Tensor).collect::<Vec<_>>()).unwrap()
}

fn largest(t: &Tensor) -> f32 {
    t.to_f32().iter().fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { f32::INFINITY })
}

/// Every method trains on every kind of backbone: gradients exist, are finite and not all zero.
#[test]
fn every_method_has_gradients() {
    let exports = ["clip-vision-dynamo", "kwt-qdq", "resnet-batchnorm", "mobilenet-qoperator"];
    for name in exports {
        let (_dir, backbone) = prepared(&export(name), Weights::Int8);
        for method in methods::all() {
            let few = [("rows", "2")];
            let few = if method.name() == "prompt-tuning" { &few[..] } else { &[] };
            let Some(plan) = plan(&backbone, method.name(), few) else { continue };
            if plan.trained().is_empty() {
                continue;
            }
            let sizes: Vec<f32> = gradients_of(&backbone, &plan).iter().map(largest).collect();
            assert!(sizes.iter().all(|s| s.is_finite()), "{name} {}", method.name());
            let moving = sizes.iter().filter(|s| **s > 0.0).count();
            println!("{name} {}: {moving} of {} tensors move", method.name(), sizes.len());
            assert_eq!(moving, sizes.len(), "{name} {}", method.name());
        }
    }
}

/// Weights that were rounded before the export are the same in both forms, and so is what
/// gradients make of them.
#[test]
fn stored_integers_give_the_same_gradients() {
    for (name, method) in [("mobilenet-qoperator", "bias"), ("kwt-qdq", "lora")] {
        let [a, b] = [Weights::F32, Weights::Int8].map(|weights| {
            let (_dir, backbone) = prepared(&export(name), weights);
            gradients_of(&backbone, &plan(&backbone, method, &[]).unwrap())
        });
        for (a, b) in a.iter().zip(&b) {
            assert!(difference(a, b) <= 1e-4 * largest(a).max(1e-3), "{name}");
        }
    }
}

/// A batch normalisation that follows no convolution becomes a product and a sum.
#[test]
fn a_lone_batch_normalisation_is_a_line() {
    let mut graph = Graph::new();
    let x = graph.add_input("x", DType::F32, &[Dim::BATCH, 3.into(), 2.into(), 2.into()]).unwrap();
    let parts = [[1.5f32, -2.0, 0.5], [0.1, 0.2, 0.3], [0.4, -0.5, 0.6], [0.7, 1.8, 2.9]];
    let parts = parts.map(|p| graph.add_constant("part", Tensor::vector(&p)));
    let inputs = [&[x][..], &parts].concat();
    let y = graph.op("Relu", &[x], Attrs::none()).unwrap();
    let y = [&[y], &inputs[1..]].concat();
    let y = graph.op("BatchNormalization", &y, Attrs::none()).unwrap();
    graph.outputs = vec![y];
    let x = noise(&[2, 3, 2, 2], 5);
    let before = run(&graph, &x).swap_remove(0);
    canonicalise(&mut graph).unwrap();
    let ops: Vec<&str> = graph.nodes.iter().map(|n| n.op.as_str()).collect();
    assert_eq!(ops, ["Relu", "Mul", "Add"]);
    assert!(difference(&before, &run(&graph, &x)[0]) < 1e-6);
}

/// Model files cut short or with a byte changed are refused or read, never more.
#[test]
fn damaged_models_do_no_harm() {
    for name in ["mobilenet-qoperator", "kwt-qdq"] {
        let path = export(name);
        let bytes = std::fs::read(&path).unwrap();
        for i in 0..400usize {
            let mut damaged = bytes.clone();
            let at = (i * 2_654_435_761) % damaged.len();
            damaged[at] ^= 1 << (i % 8);
            if i % 4 == 0 {
                damaged.truncate(at);
            }
            let external = onnx::ExternalData::in_folder(path.parent().unwrap());
            if let Ok(mut graph) = onnx::parse(&damaged, &path, external)
                && canonicalise(&mut graph).is_ok()
            {
                let _ = discover(&graph);
            }
        }
    }
}
