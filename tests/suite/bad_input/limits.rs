use std::path::PathBuf;

use edge_tune::graph::sites::{Role, discover};
use edge_tune::graph::{canonical, onnx};
use prost::Message;
use tract_onnx::pb::{NodeProto, ValueInfoProto};

use super::mutations::bert;
use super::onnx::{in_time, integers, mlp, node, run};
use crate::support::fixture;

/// Sites are found in one pass: paths through these graphs are 2^60, and 20,000 deep.
#[test]
fn graphs_that_are_made_to_be_slow() {
    let dir = tempfile::tempdir().unwrap();
    let chain = |op: &'static str, count: usize| {
        mlp(move |_, g| {
            let name = |i: usize| if i == 0 { "h".to_owned() } else { format!("n{i}") };
            g.node.truncate(1);
            let link = |i: usize| node(op, &[&name(i), &name(i)], &name(i + 1));
            g.node.extend((0..count).map(link));
            g.node.push(node("Softmax", &[&name(count)], "y"));
        })
    };
    run(
        dir.path(),
        vec![
            ("wide", chain("Add", 60), "backbone.structure", &["attention"]),
            ("deep", chain("Add", 20_000), "backbone.structure", &["attention"]),
        ],
    );

    // The walk from an attention to its output layer, in a real backbone.
    let path = fixture("exports/bert-dynamo/model.onnx");
    let mut graph = onnx::read(&path).unwrap();
    canonical::canonicalise(&mut graph).unwrap();
    let sites = discover(&graph).unwrap();
    let merged = &sites.linear(0, Role::AttentionOutput).unwrap().input;
    for (what, count) in [("wide", 60), ("deep", 20_000)] {
        let mut model = bert();
        let g = model.graph.as_mut().unwrap();
        let reshape = g.node.iter().find(|n| n.output.contains(merged)).unwrap();
        let name = |i: usize| if i == 0 { reshape.input[0].clone() } else { format!("slow{i}") };
        let mut slow: Vec<NodeProto> =
            (0..count).map(|i| node("Mul", &[&name(i), &name(i)], &name(i + 1))).collect();
        g.output.push(ValueInfoProto { name: name(count), ..Default::default() });
        // Before the others, so that the walk takes this way first.
        slow.append(&mut g.node);
        g.node = slow;
        let file = dir.path().join("slow.onnx");
        std::fs::write(&file, model.encode_to_vec()).unwrap();
        let found = in_time(what, move || {
            let mut graph = onnx::read(&file).unwrap();
            canonical::canonicalise(&mut graph).unwrap();
            discover(&graph).unwrap()
        });
        assert_eq!(found.layers.len(), sites.layers.len(), "{what}");
    }
}

/// Every value is small enough to be computed, all together are 6 GB.
#[test]
fn graphs_that_are_made_to_be_large() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("large.onnx");
    let bytes = mlp(|_, g| {
        g.initializer.push(integers("n", &[1 << 18]));
        g.node.push(node("ConstantOfShape", &["n"], "c0"));
        g.node.extend((0..2000).map(|i| node("Neg", &[&format!("c{i}")], &format!("c{}", i + 1))));
    });
    std::fs::write(&path, bytes).unwrap();
    let graph = in_time("large", move || onnx::read(&path)).unwrap();
    let known = graph.values().filter_map(|(_, v)| v.known.as_ref());
    let bytes: usize = known.flat_map(|k| k.iter()).map(|t| t.bytes().len()).sum();
    assert!((1 << 20..300 << 20).contains(&bytes), "{bytes} bytes of known values");
}
