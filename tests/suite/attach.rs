//! Tests: attachments that do not fit, and where positions are read behind a prefix.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use edge_tune::attach::{Activation, Attachment, OffsetSite, Place, attach};
use edge_tune::backbone::{Backbone, Prepare, Weights, prepare, site};
use edge_tune::engine::Feed;
use edge_tune::graph::sites::Role;
use edge_tune::graph::{Dim, Graph, GraphError, ValueId};
use edge_tune::tensor::{DType, Tensor};

use crate::support::{engine, fixture};

fn backbone(dir: &Path, export: &str) -> Arc<Backbone> {
    let model = fixture(&format!("exports/{export}/model.onnx"));
    let options = Prepare { weights: Weights::F32, ..Prepare::new(model, dir.join(export)) };
    prepare(&options, &*engine(), |_| ()).unwrap();
    Backbone::load(&dir.join(export)).unwrap()
}

/// The backbone's graph with inputs for these tensors.
fn graph(backbone: &Backbone, tensors: &[(&str, &[usize])]) -> (Graph, HashMap<String, ValueId>) {
    let mut graph = backbone.graph().clone();
    let mut values = HashMap::new();
    for (name, shape) in tensors {
        let shape: Vec<Dim> = shape.iter().map(|&d| Dim::fixed(d)).collect();
        values.insert((*name).to_owned(), graph.add_input(name, DType::F32, &shape).unwrap());
    }
    (graph, values)
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let backbone = backbone(dir.path(), "bert-dynamo");
    let d = backbone.sites().width;
    let offset = |site| Attachment::Offset { site, tensor: "b".into() };
    let kv = |layer, keys: &str| Attachment::KvRows {
        layer,
        keys: keys.into(),
        values: "v".into(),
        count: 3,
    };
    let low_rank = |layer, a: &str| Attachment::LowRank {
        layer,
        role: Role::Query,
        a: a.into(),
        b: "b2".into(),
        scale: 1.0,
    };
    let branch = |layer| Attachment::Branch {
        layer,
        place: Place::Ffn,
        activation: Activation::Relu,
        prefix: "adapter".into(),
    };
    let rows = |rows: &str| Attachment::TokenRows { rows: rows.into(), count: 3 };
    let (heads, width) = (backbone.sites().heads, d / backbone.sites().heads);
    let kv_shape = [3, heads, width];
    let tensors: &[(&str, &[usize])] = &[
        ("b", &[d]),
        ("k", &kv_shape),
        ("v", &kv_shape),
        ("a2", &[2, d]),
        ("b2", &[d, 2]),
        ("thin", &[2, 5]),
        ("rows", &[3, d]),
    ];
    let cases = [
        ("a layer that is not there", kv(9, "k"), Err("layer 9")),
        ("keys that are not there", kv(0, "keys"), Err("keys")),
        ("a linear layer that is not there", low_rank(2, "a2"), Err("layer 2 query")),
        ("a matrix that is not there", low_rank(1, "a1"), Err("a1")),
        ("a branch without weights", branch(0), Err("adapter.down.weight")),
        ("a branch of no layer", branch(usize::MAX), Err("layer")),
        (
            "a norm that is not there",
            offset(OffsetSite::Norm("7.ffn_norm".into())),
            Err("7.ffn_norm"),
        ),
        ("an offset of no layer", offset(OffsetSite::Linear(7, Role::FfnUp)), Err("7")),
        ("rows that are not there", rows("none"), Err("none")),
        // And what is there but does not fit breaks a rule of an operator.
        ("a matrix of another width", low_rank(0, "thin"), Ok("MatMul")),
        ("rows of another width", rows("thin"), Ok("Concat")),
        ("keys of another shape", kv(0, "rows"), Ok("Concat")),
    ];
    for (what, attachment, want) in cases {
        let (mut graph, values) = graph(&backbone, tensors);
        let error = attach(&mut graph, backbone.manifest(), &[attachment], &values).unwrap_err();
        match want {
            Err(name) => {
                assert!(matches!(error, GraphError::Undefined(_)), "{what}: {error}");
                assert!(error.to_string().contains(name), "{what}: {error}");
            }
            Ok(op) => {
                assert!(matches!(error, GraphError::Invalid { .. }), "{what}: {error}");
                assert!(error.to_string().contains(op), "{what}: {error}");
            }
        }
    }
    // A site that the manifest names and the graph lacks.
    let mut manifest = backbone.manifest().clone();
    manifest.sites.layers[0].values = "nowhere".into();
    let (mut graph, values) = graph(&backbone, tensors);
    let error = attach(&mut graph, &manifest, &[kv(0, "k")], &values).unwrap_err();
    assert_eq!(error, GraphError::Undefined("nowhere".into()));
}

/// RoBERTa counts positions from the ids; behind a prefix of P rows, every look-up is P further.
#[test]
fn positions_shift_behind_a_prefix() {
    const ROWS: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    for export in ["roberta-dynamo", "bert-dynamo"] {
        let backbone = backbone(dir.path(), export);
        let positions = backbone.sites().positions.clone().unwrap();
        let mut graph = backbone.graph().clone();
        let before = site(&graph, &positions.indices).unwrap();
        let shift = [Attachment::ShiftPositions { count: ROWS }];
        attach(&mut graph, backbone.manifest(), &shift, &HashMap::new()).unwrap();
        let gathered = site(&graph, &positions.value).unwrap();
        let gather = graph.index().producer(gathered).unwrap();
        let after = graph.nodes[gather].inputs.last().copied().flatten().unwrap();
        assert_ne!(after, before, "{export}");
        graph.outputs = vec![before, after];
        graph.prune();
        let program = engine().compile(&graph, &[]).unwrap();
        let ids = Tensor::new(&[2, 6], &[0i64, 8, 9, 10, 11, 2, 0, 7, 2, 1, 1, 1]).unwrap();
        let mask = Tensor::new(&[2, 6], &[1i64, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).unwrap();
        let types = Tensor::zeros(DType::I64, &[2, 6]);
        let feed = |name: &String| match name {
            n if *n == backbone.sites().input => Feed::Tensor(&ids),
            n if Some(n) == backbone.sites().mask.as_ref() => Feed::Tensor(&mask),
            _ => Feed::Tensor(&types),
        };
        let feeds: Vec<Feed> = program.inputs().iter().map(feed).collect();
        let out = program.run(&feeds).unwrap();
        let (plain, shifted) = (out[0].to_i64().unwrap(), out[1].to_i64().unwrap());
        let want: Vec<i64> = plain.iter().map(|p| p + ROWS as i64).collect();
        assert_eq!(shifted, want, "{export}");
        if export == "roberta-dynamo" {
            // Tokens are counted from 2, padding is at 1.
            assert_eq!(plain, [2, 3, 4, 5, 6, 7, 2, 3, 4, 1, 1, 1]);
        }
    }
}
