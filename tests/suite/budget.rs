//! Tests: limits on deltas are kept before anything is loaded or copied.

use std::fs;

use edge_tune::delta::{Delta, Metadata};
use edge_tune::runtime::{self, Model};
use edge_tune::store::{self, Store};
use edge_tune::tensor::Tensor;
use serde_json::json;

use crate::bad_input::cli::Bench;
use crate::bad_input::deltas::good;
use crate::support::{engine, text_backbone};

#[test]
fn a_model_refuses_what_is_over_its_budget() {
    let (_home, backbone) = text_backbone();
    let model = Model::open(&backbone, engine()).unwrap();
    let delta = good(&model);
    let none = runtime::Budget::default();
    let limits = [
        (runtime::Budget { max_rank: Some(1), ..none }, "delta.budget", "2 of rank, at most 1"),
        (runtime::Budget { max_delta_bytes: 99, ..none }, "delta.budget", "bytes, at most 99"),
        (runtime::Budget { max_resident: 0, ..none }, "runtime.resident", "0 may be resident"),
        (runtime::Budget::of_bytes(99), "runtime.budget", "budget of 99"),
    ];
    let mut model = model;
    for (budget, code, part) in limits {
        model = model.with_budget(budget);
        let error = model.load(&delta).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(model.resident_bytes(), 0);
    }
    // At the limit it is taken; what is dropped is given back, and so is what was refused.
    let size = delta.file_bytes();
    let exact =
        runtime::Budget { max_rank: Some(2), max_resident: 1, max_delta_bytes: size, ..none };
    let model = model.with_budget(exact);
    let task = model.load(&delta).unwrap();
    assert_eq!(model.load(&delta).unwrap_err().code(), "runtime.resident");
    drop(task);
    model.load(&delta).unwrap();
}

#[test]
fn only_the_header_of_a_refused_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    let write = |method: &str, config: serde_json::Value| {
        let mut metadata = Metadata::new(method, &"0".repeat(64), &["no", "yes"]);
        metadata.config = config;
        let weight = Tensor::new(&[2, 512], &[0.5f32; 1024]).unwrap();
        let delta = Delta::new(metadata, [("head.weight".to_string(), weight)]).unwrap();
        let bytes = delta.to_bytes().unwrap();
        // The tensors are missing: whoever reads them says so.
        fs::write(&path, &bytes[..bytes.len() - 4000]).unwrap();
    };
    let none = runtime::Budget::default();
    let rank = runtime::Budget { max_rank: Some(7), ..none };
    let prompt = runtime::Budget { max_prompt: Some(9), ..none };
    for (method, config, budget, want) in [
        ("lora", json!({"rank": "8"}), rank, "delta.budget"),
        // The default counts where nothing is said.
        ("lora", json!({}), rank, "delta.budget"),
        ("lora", json!({"rank": "7"}), rank, "delta.truncated"),
        ("adapter", json!({"bottleneck": "64"}), rank, "delta.budget"),
        ("prefix-tuning", json!({"rows": "10"}), prompt, "delta.budget"),
        ("vpt-deep", json!({"rows": "9"}), prompt, "delta.truncated"),
        ("linear", json!({}), runtime::Budget { max_delta_bytes: 100, ..none }, "delta.budget"),
    ] {
        write(method, config.clone());
        let error = budget.read(&path).unwrap_err();
        assert_eq!(error.code(), want, "{method} {config}: {error}");
    }
}

#[test]
fn a_store_refuses_before_it_copies() {
    let dir = tempfile::tempdir().unwrap();
    let delta = |seed: f32| {
        let metadata = Metadata::new("linear", &"0".repeat(64), &["no", "yes"]);
        let metadata = Metadata { created: String::new(), task: "own".into(), ..metadata };
        let weight = Tensor::vector(&[seed, 1.0]);
        let delta = Delta::new(metadata, [("head.weight".to_string(), weight)]).unwrap();
        delta.to_bytes().unwrap()
    };
    let size = delta(1.0).len() as u64;
    let budget = store::Budget { max_tasks: Some(2), max_bytes: Some(2 * size) };
    let store = Store::open(dir.path()).unwrap().with_budget(budget);
    let install = |seed, task| store.install(&delta(seed), task, |_| Ok::<_, String>(()));
    install(1.0, Some("one")).unwrap();
    // The same bytes are stored once.
    install(1.0, Some("two")).unwrap();
    for task in [None, Some("three")] {
        let error = install(1.0, task).unwrap_err();
        assert_eq!(error.code(), "store.budget");
        assert!(error.to_string().contains("3 tasks, at most 2"), "{error}");
    }
    install(2.0, Some("two")).unwrap();
    let error = install(3.0, Some("two")).unwrap_err();
    assert_eq!(error.code(), "store.budget");
    assert!(error.to_string().contains("bytes, at most"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 2);
    store.remove("one").unwrap();
    store.remove("two").unwrap();
    install(3.0, None).unwrap();
}

#[test]
fn the_command_line_takes_limits() {
    let b = Bench::new();
    let trained = b.run(&b.calibrate(&["--data", "data.csv", "--task", "lights", "--quiet"]));
    assert_eq!(trained.exit, Some(0), "{}", trained.stderr);
    let apply = |more: &[&'static str]| [&["apply", "out.safetensors"], more].concat();
    b.fails(&apply(&["--max-delta", "100"]), 1, "delta.budget", &["out.safetensors", "100"]);
    b.fails(&apply(&["--max-store", "100"]), 1, "store.budget", &["bytes"]);
    b.fails(&apply(&["--max-tasks", "0"]), 1, "store.budget", &["1 tasks, at most 0"]);
    assert_eq!(b.run(&apply(&["--max-delta", "1M", "--max-store", "1M"])).exit, Some(0));
    let predict = ["predict", "--task", "lights", "--max-resident", "10", "lights on"];
    b.fails(&predict, 1, "runtime.budget", &["`lights`"]);
    let predict = ["predict", "--task", "lights", "--max-tasks", "0", "lights on"];
    b.fails(&predict, 1, "runtime.resident", &["`lights`"]);
}
