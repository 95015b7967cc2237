//! Tests: reading exports, finding their sites, writing backbones.

use std::collections::BTreeMap;

use edge_tune::backbone::{Backbone, Prepare, Weights, prepare};
use edge_tune::engine::Feed;
use edge_tune::graph::canonical::{MaskReport, canonicalise, padding_masks};
use edge_tune::graph::sites::{Modality, Role, Sites, discover};
use edge_tune::graph::{Graph, onnx};
use edge_tune::tensor::Tensor;

use crate::support::{engine, fixture, tensors};

/// Every export of the fixtures: folder, family, whether it has the legacy mask defect.
const EXPORTS: &[(&str, &str)] = &[
    ("bert-legacy", "bert"),
    ("bert-dynamo", "bert"),
    ("roberta-legacy", "roberta"),
    ("roberta-dynamo", "roberta"),
    ("vit-legacy", "vit"),
    ("vit-dynamo", "vit"),
    ("bert-external", "bert"),
    ("bert-eager", "bert"),
    ("bert-additive", "bert"),
    ("bert-legacy-wrongmask", "bert"),
];

fn canonical(export: &str) -> (Graph, MaskReport, Sites) {
    let path = fixture(&format!("exports/{export}/model.onnx"));
    let mut graph = onnx::read(&path).unwrap_or_else(|e| panic!("{export}: {e}"));
    canonicalise(&mut graph).unwrap_or_else(|e| panic!("{export}: {e}"));
    let mask = padding_masks(&mut graph).unwrap_or_else(|e| panic!("{export}: {e}"));
    let sites = discover(&graph).unwrap_or_else(|e| panic!("{export}: {e}"));
    (graph, mask, sites)
}

#[test]
fn every_site_of_every_export_is_found() {
    for &(export, family) in EXPORTS {
        let (graph, mask, sites) = canonical(export);
        assert_eq!(sites.layers.len(), 2, "{export}");
        assert_eq!(sites.linears.len(), 2 * Role::ALL.len(), "{export}");
        assert_eq!(sites.pre_norm, family == "vit", "{export}");
        assert_eq!(sites.modality == Modality::Image, family == "vit", "{export}");
        let expected = match export {
            "bert-legacy-wrongmask" => MaskReport::Repaired,
            _ if family == "vit" => MaskReport::None,
            _ => MaskReport::Padding,
        };
        assert_eq!(mask, expected, "{export}");
        let mut norms: Vec<&str> = sites.norms.iter().map(|n| n.name.as_str()).collect();
        norms.sort_unstable();
        let whole = if family == "vit" { "final_norm" } else { "embedding_norm" };
        assert_eq!(
            norms,
            ["0.attention_norm", "0.ffn_norm", "1.attention_norm", "1.ffn_norm", whole],
            "{export}"
        );
        let positions = match family {
            "bert" => Some(64),
            // Two rows of the table are never used.
            "roberta" => Some(66),
            _ => None,
        };
        assert_eq!(sites.positions.as_ref().map(|p| p.rows), positions, "{export}");
        assert_eq!(sites.types.is_some(), family == "bert", "{export}");
        let gelus = graph.nodes.iter().filter(|n| n.op == "Gelu").count();
        assert_eq!(gelus, 2, "{export}");
        println!("{export}: {} nodes", graph.nodes.len());
    }
}

/// Runs the prepared backbone on one of the fixture's inputs.
fn hidden(backbone: &Backbone, io: &BTreeMap<String, Tensor>, case: &str) -> Tensor {
    let mut graph = backbone.graph().clone();
    graph.outputs.truncate(1);
    let program = engine().compile(&graph, &[]).unwrap();
    let feeds: Vec<Feed> =
        program.inputs().iter().map(|name| Feed::Tensor(&io[&format!("{case}.{name}")])).collect();
    program.run(&feeds).unwrap().swap_remove(0)
}

#[test]
fn prepared_float_backbones_equal_torch() {
    for &(export, _) in EXPORTS {
        let io = tensors(&fixture(&format!("exports/{export}/io.safetensors")));
        for weights in [Weights::F32, Weights::Int8, Weights::Int4] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("backbone");
            let model = fixture(&format!("exports/{export}/model.onnx"));
            let options = Prepare { weights, ..Prepare::new(model, &out) };
            let manifest =
                prepare(&options, &*engine(), |_| ()).unwrap_or_else(|e| panic!("{export}: {e}"));
            let backbone = Backbone::load(&out).unwrap();
            backbone.verify().unwrap();
            for case in ["a", "b"] {
                let have = hidden(&backbone, &io, case);
                let want = &io[&format!("{case}.last_hidden_state")];
                let worst = real_difference(&have, want, io.get(&format!("{case}.attention_mask")));
                println!(
                    "{export} {weights} {case}: {worst:.2e}, cosine {}",
                    manifest.report.cosine
                );
                match weights {
                    Weights::F32 => assert!(worst < 1e-4, "{export} {case}: {worst}"),
                    Weights::Int8 => assert!(manifest.report.cosine > 0.999, "{export}"),
                    Weights::Int4 => assert!(manifest.report.cosine > 0.9, "{export}"),
                }
            }
        }
    }
}

/// Largest difference over real tokens; padding may hold anything.
fn real_difference(a: &Tensor, b: &Tensor, mask: Option<&Tensor>) -> f32 {
    let width = *a.shape().last().unwrap();
    let mask = mask.map(|m| m.to_f32());
    let (a, b) = (a.to_f32(), b.to_f32());
    (0..a.len())
        .filter(|i| mask.as_ref().is_none_or(|m| m[i / width] != 0.0))
        .map(|i| (a[i] - b[i]).abs())
        .fold(0.0, f32::max)
}

/// Run by hand on real sizes: see tools/README.md.
#[test]
#[ignore = "needs EDGE_TUNE_EXPORTS: folders written by tools/export_backbone.py --io"]
fn real_exports_equal_torch() {
    let folders = std::env::var("EDGE_TUNE_EXPORTS").unwrap();
    for folder in folders.split(':') {
        let folder = std::path::Path::new(folder);
        let io = tensors(&folder.join("io.safetensors"));
        for weights in [Weights::F32, Weights::Int8] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("backbone");
            let options = Prepare { weights, ..Prepare::new(folder.join("model.onnx"), &out) };
            let started = std::time::Instant::now();
            let manifest = prepare(&options, &*engine(), |_| ()).unwrap();
            let seconds = started.elapsed().as_secs_f64();
            let backbone = Backbone::load(&out).unwrap();
            let worst = ["a", "b"].map(|case| {
                let want = &io[&format!("{case}.last_hidden_state")];
                let mask = io.get(&format!("{case}.attention_mask"));
                real_difference(&hidden(&backbone, &io, case), want, mask)
            });
            println!(
                "{} {weights}: {} attentions, largest difference from torch {worst:?}, cosine \
                 to the export {:.6}, mask {:?}, {:.1} MB, prepared in {seconds:.1} s",
                folder.display(),
                manifest.report.attentions,
                manifest.report.cosine,
                manifest.report.mask,
                manifest.bytes() as f64 / 1e6
            );
            let repaired = manifest.report.mask == MaskReport::Repaired;
            assert!(weights == Weights::Int8 || repaired || worst.iter().all(|w| *w < 1e-4));
        }
    }
}
