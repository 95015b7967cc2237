//! Tests: forward, loss and gradients of every method against torch and PEFT.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use edge_tune::autodiff::gradients;
use edge_tune::backbone::{Backbone, Prepare, Weights, prepare, site};
use edge_tune::engine::Feed;
use edge_tune::methods::{self, Settings};
use edge_tune::runtime::{TensorForm, build};
use edge_tune::tensor::{DType, Tensor};
use edge_tune::train::loss;
use serde_json::Value;

use crate::support::{engine, fixture, tensors};

fn backbone(dir: &std::path::Path, family: &str, weights: Weights) -> Arc<Backbone> {
    let out = dir.join(format!("{family}-{weights}"));
    let model = fixture(&format!("exports/{family}-dynamo/model.onnx"));
    let options = Prepare { weights, ..Prepare::new(model, &out) };
    prepare(&options, &*engine(), |_| ()).unwrap();
    Backbone::load(&out).unwrap()
}

/// What a fixture says about itself.
fn case(path: &std::path::Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&meta.metadata().as_ref().unwrap()["case"]).unwrap()
}

/// The method and settings that a fixture is about; `None` for methods of later versions.
fn method_of(
    case: &Value,
    file: &BTreeMap<String, Tensor>,
) -> Option<(&'static str, Vec<(&'static str, String)>)> {
    let text = |k: &str| case[k].as_str().unwrap_or_default().to_owned();
    let number = |k: &str| case[k].to_string();
    let pooling = ("pooling", text("pool"));
    let position = ("position", text("position_mode"));
    Some(match text("method").as_str() {
        "linear" => ("linear", vec![pooling]),
        "prompt-tuning" => ("prompt-tuning", vec![pooling, ("rows", number("rows"))]),
        "vpt-shallow" => ("vpt-shallow", vec![pooling, ("rows", number("rows"))]),
        "vpt-deep" => {
            let form = case["form"].as_str().unwrap_or("kv").to_owned();
            ("vpt-deep", vec![pooling, ("rows", number("rows")), ("form", form)])
        }
        "l2p" => {
            let set = ["prompts", "rows", "top", "pull"].map(|k| (k, number(k)));
            ("l2p", [&[pooling, ("feature", "rows".into())][..], &set].concat())
        }
        "side" => ("side", vec![pooling, ("channels", "4".into()), ("layers", "2".into())]),
        "tip-adapter-f" => {
            ("tip-adapter-f", vec![pooling, ("keys", number("keys")), ("scale", number("scale"))])
        }
        "ia3" => ("ia3", vec![pooling]),
        "partial" => ("partial", vec![pooling]),
        "mlp" => ("mlp", vec![pooling]),
        name @ ("prefix-tuning" | "p-tuning-v2") => {
            let name = if name == "prefix-tuning" { "prefix-tuning" } else { "p-tuning-v2" };
            let mut set = vec![pooling, ("rows", number("rows"))];
            if !position.1.is_empty() {
                set.push(position);
            }
            if let Some(mlp) = file.get("prefix.mlp.0.bias") {
                set.push(("projection", "true".into()));
                set.push(("hidden", mlp.len().to_string()));
            }
            (name, set)
        }
        "lora" => ("lora", vec![pooling, ("rank", number("rank")), ("alpha", number("alpha"))]),
        "bias" => ("bias", vec![pooling, ("key", "true".into())]),
        "lite-residual" => {
            let bias = case["bias"].to_string();
            ("lite-residual", vec![pooling, ("bias", bias)])
        }
        name if name.starts_with("adapter") => {
            let variant = if name.ends_with("houlsby") { "houlsby" } else { "pfeiffer" };
            let width = number("width");
            ("adapter", vec![pooling, ("variant", variant.into()), ("bottleneck", width)])
        }
        _ => return None,
    })
}

/// Fixtures name a picture model's normalisations by their place before a sublayer.
fn fixture_name(name: &str, family: &str) -> String {
    match family {
        "vit" => name.replace("attention_norm", "norm_before").replace("ffn_norm", "norm_after"),
        _ => name.to_owned(),
    }
}

struct Outcome {
    logits: Vec<f32>,
    loss: f32,
    grads: Vec<(String, Vec<f32>)>,
}

fn run(backbone: &Backbone, case: &Value, file: &BTreeMap<String, Tensor>) -> Option<Outcome> {
    let (name, set) = method_of(case, file)?;
    let family = case["family"].as_str().unwrap();
    let method = methods::find(name).unwrap();
    let set = set.iter().map(|(k, v)| (*k, v.as_str()));
    let settings = Settings::resolve(method, set).unwrap();
    let plan = method.plan(backbone.manifest(), 3, &settings).unwrap();
    let specs = plan.trained();
    let given = plan.given();
    let (mut graph, attached, _) = build(backbone, &plan, &given, TensorForm::Float).unwrap();
    let logits = attached.logits.unwrap();
    let batch = graph.shape(logits)[..1].to_vec();
    let labels = graph.add_input("labels", DType::I64, &batch).unwrap();
    let weight = graph.add_input("loss_weight", DType::F32, &[]).unwrap();
    let loss = loss(&mut graph, &plan, &attached, &[], (labels, weight)).unwrap();
    let wrt: Vec<_> = specs.iter().map(|s| site(&graph, &s.name).unwrap()).collect();
    let grads = gradients(&mut graph, loss, &wrt).unwrap();
    graph.outputs = [logits, loss].into_iter().chain(grads).collect();
    graph.prune();
    let program = engine().compile(&graph, &[]).unwrap();
    let mut feeds: HashMap<String, Tensor> = HashMap::new();
    let rows = file["labels"].len();
    feeds.insert("loss_weight".into(), Tensor::scalar(1.0 / rows as f32));
    for name in program.inputs() {
        let wanted = fixture_name(name, family);
        match file.get(&wanted) {
            Some(t) => _ = feeds.insert(name.clone(), t.clone()),
            None => assert!(feeds.contains_key(name), "the fixture lacks {wanted}"),
        }
    }
    let feeds: Vec<Feed> = program.inputs().iter().map(|n| Feed::Tensor(&feeds[n])).collect();
    let out = program.run(&feeds).unwrap();
    let names = specs.iter().map(|s| fixture_name(&s.name, family));
    Some(Outcome {
        logits: out[0].to_f32().into_owned(),
        loss: out[1].to_f32()[0],
        grads: names.zip(out[2..].iter().map(|t| t.to_f32().into_owned())).collect(),
    })
}

fn every_case(weights: Weights, mut check: impl FnMut(&str, &Outcome, &BTreeMap<String, Tensor>)) {
    let dir = tempfile::tempdir().unwrap();
    let mut backbones = HashMap::new();
    let mut done = 0;
    let mut files: Vec<_> =
        std::fs::read_dir(fixture("methods")).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for path in files {
        let case = case(&path);
        let family = case["family"].as_str().unwrap().to_owned();
        let backbone = backbones
            .entry(family.clone())
            .or_insert_with(|| backbone(dir.path(), &family, weights))
            .clone();
        let file = tensors(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match run(&backbone, &case, &file) {
            Some(outcome) => check(&name, &outcome, &file),
            None => {
                println!("{name}: a method of a later version");
                continue;
            }
        }
        done += 1;
    }
    assert!(done >= 40, "{done} cases");
}

#[test]
fn float_backbones_agree_with_torch() {
    every_case(Weights::F32, |name, have, file| {
        let worst = |a: &[f32], b: &[f32]| {
            assert_eq!(a.len(), b.len(), "{name}");
            a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
        };
        let forward = worst(&have.logits, &file["logits"].to_f32());
        let loss = (have.loss - file["loss"].to_f32()[0]).abs();
        let mut backward = 0f32;
        // The gradient of a key bias is zero in theory; the floor keeps its noise, tiny beside the
        // other gradients, from being compared with itself.
        let wants =
            have.grads.iter().map(|(t, _)| file[&format!("grad.{t}")].to_f32().into_owned());
        let floor = 1e-3 * wants.flatten().fold(0f32, |m, v| m.max(v.abs()));
        for (tensor, grad) in &have.grads {
            let want = file[&format!("grad.{tensor}")].to_f32();
            let size = want.iter().fold(floor, |m, v| m.max(v.abs()));
            let relative = worst(grad, &want) / size;
            assert!(relative < 1e-4, "{name}: gradient of {tensor} is off by {relative:.1e}");
            backward = backward.max(relative);
        }
        println!("{name}: logits {forward:.1e}, loss {loss:.1e}, gradients {backward:.1e}");
        assert!(forward < 1e-4 && loss < 1e-4, "{name}");
    });
}

#[test]
fn deep_prompts_as_keys_and_values_equal_rows_in_the_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let backbone = backbone(dir.path(), "vit", Weights::F32);
    let path = fixture("methods/vit-vpt-deep.safetensors");
    let file = tensors(&path);
    let mut case = case(&path);
    let outcomes = ["kv", "rows"].map(|form| {
        case["form"] = form.into();
        run(&backbone, &case, &file).unwrap()
    });
    let [kv, rows] = &outcomes;
    let pairs = kv.grads.iter().zip(&rows.grads).map(|(a, b)| (&a.1, &b.1));
    for (a, b) in pairs.chain([(&kv.logits, &rows.logits)]) {
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(a.len() == b.len() && worst < 1e-5, "{worst}");
    }
}

#[test]
fn int8_gradients_point_the_same_way() {
    every_case(Weights::Int8, |name, have, file| {
        let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
        for (tensor, grad) in &have.grads {
            for (a, b) in grad.iter().zip(file[&format!("grad.{tensor}")].to_f32().iter()) {
                ab += f64::from(*a) * f64::from(*b);
                aa += f64::from(*a) * f64::from(*a);
                bb += f64::from(*b) * f64::from(*b);
            }
        }
        let cosine = ab / (aa * bb).sqrt();
        println!("{name}: gradient cosine {cosine:.5}");
        // Few rectified units of its own: those that change sign between f32 and int8 weights take
        // their whole gradient with them.
        let rectified = name.ends_with("-mlp") || name.contains("lite-residual");
        let least = if rectified { 0.97 } else { 0.995 };
        assert!(cosine > least, "{name}: {cosine}");
    });
}
