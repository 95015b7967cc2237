//! Tests: reading exports, finding their sites, writing backbones.

use edge_tune::graph::canonical::{MaskReport, canonicalise, padding_masks};
use edge_tune::graph::sites::{Modality, Role, Sites, discover};
use edge_tune::graph::{Graph, onnx};

use crate::support::fixture;

/// Every export of the fixtures: folder, family, whether it has the legacy mask defect.
const EXPORTS: &[(&str, &str)] = &[
    ("bert-legacy", "bert"),
    ("bert-dynamo", "bert"),
    ("roberta-legacy", "roberta"),
    ("roberta-dynamo", "roberta"),
    ("vit-legacy", "vit"),
    ("vit-dynamo", "vit"),
    ("bert-external", "bert"),
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
        assert_eq!(sites.positions.is_some(), family != "vit", "{export}");
        assert_eq!(sites.types.is_some(), family == "bert", "{export}");
        let gelus = graph.nodes.iter().filter(|n| n.op == "Gelu").count();
        assert_eq!(gelus, 2, "{export}");
        println!("{export}: {} nodes", graph.nodes.len());
    }
}
