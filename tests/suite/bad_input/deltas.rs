use std::fs;
use std::path::Path;

use edge_tune::Error;
use edge_tune::delta::{Delta, MAX_HEADER_BYTES, Metadata, SelfTest};
use edge_tune::runtime::{Model, expected_tensors, plan_of};
use edge_tune::store::{Store, StoreError};
use edge_tune::tensor::{DType, Tensor};
use serde_json::{Value, json};

use super::{backbone, check};
use crate::support::engine;

const TEXT: &str = "lights on please";

fn metadata(model: &Model) -> Metadata {
    let mut m = Metadata::new("lora", model.backbone().digest(), &["off", "on"]);
    m.config = json!({"rank": "2"});
    m.task = "lights".into();
    m.created.clear();
    m
}

/// The tensors that `metadata` asks for, filled with small numbers.
fn tensors(model: &Model, metadata: &Metadata) -> Vec<(String, Tensor)> {
    let empty = Delta::new(metadata.clone(), []).unwrap();
    let plan = plan_of(model.backbone(), &empty).unwrap();
    let filled = |(k, spec): (usize, edge_tune::delta::TensorSpec)| {
        let n: usize = spec.shape.iter().product();
        let v: Vec<f32> = (0..n).map(|i| ((i * 7 + k) % 11) as f32 / 50.0 - 0.1).collect();
        (spec.name, Tensor::new(&spec.shape, &v).unwrap().to_f16())
    };
    expected_tensors(&plan).into_iter().enumerate().map(filled).collect()
}

pub fn good(model: &Model) -> Delta {
    let m = metadata(model);
    let t = tensors(model, &m);
    Delta::new(m, t).unwrap()
}

/// The good delta with other metadata.
fn with(model: &Model, change: impl FnOnce(&mut Metadata)) -> Vec<u8> {
    let mut m = metadata(model);
    let t = tensors(model, &m);
    change(&mut m);
    Delta::new(m, t).unwrap().to_bytes().unwrap()
}

/// The good delta with one tensor replaced, added or, with `None`, left out.
fn tensor(model: &Model, name: &str, new: Option<Tensor>) -> Vec<u8> {
    let m = metadata(model);
    let mut t = tensors(model, &m);
    t.retain(|(n, _)| n != name);
    t.extend(new.map(|new| (name.to_owned(), new)));
    Delta::new(m, t).unwrap().to_bytes().unwrap()
}

/// A file whose header and tensor bytes were edited: what the library itself would not write.
fn edited(bytes: &[u8], edit: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let (header, data) = parts(bytes);
    let (mut header, mut data) = (serde_json::from_str(&header).unwrap(), data);
    edit(&mut header, &mut data);
    raw(&header.to_string(), &data)
}

fn parts(bytes: &[u8]) -> (String, Vec<u8>) {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..end].to_vec()).unwrap(), bytes[end..].to_vec())
}

pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

fn key(bytes: &[u8], name: &str, value: &str) -> Vec<u8> {
    edited(bytes, |h, _| h["__metadata__"][name] = value.into())
}

type Case = (&'static str, Vec<u8>, &'static str, Vec<&'static str>);

fn cases(model: &Model) -> Vec<Case> {
    let bytes = good(model).to_bytes().unwrap();
    let whole = bytes.len();
    let header = whole - parts(&bytes).1.len();
    let width = model.backbone().sites().width;
    let weight = |v: f32| {
        let mut all = vec![0.5f32; 2 * width];
        all[3] = v;
        Tensor::new(&[2, width], &all).unwrap()
    };
    // The first element of the first tensor, in f16.
    let element = |bits: [u8; 2]| edited(&bytes, |_, data| data[..2].copy_from_slice(&bits));
    let setting = |config: Value| with(model, |m| m.config = config);
    let method =
        |name: &str, config: Value| with(model, |m| (m.method, m.config) = (name.into(), config));
    let shift = |by: i64| {
        edited(&bytes, |h, _| {
            for v in h["head.weight"]["data_offsets"].as_array_mut().unwrap() {
                *v = (v.as_i64().unwrap() + by).into();
            }
        })
    };
    let duplicate = {
        let (text, data) = parts(&bytes);
        let again = r#","head.bias":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
        raw(&format!("{}{again}", text.trim_end().strip_suffix('}').unwrap()), &data)
    };
    let other = "ab".repeat(32);
    let self_test = |logits: Vec<f32>| {
        with(model, |m| {
            m.self_test = vec![SelfTest { input: TEXT.into(), logits, tolerance: 0.01 }];
        })
    };
    let lie = |length: u64| [&length.to_le_bytes()[..], &bytes[8..]].concat();
    #[rustfmt::skip]
    let cases = vec![
        ("empty", vec![], "delta.truncated", vec!["0 bytes"]),
        ("cut in the length", bytes[..5].to_vec(), "delta.truncated", vec!["5 bytes"]),
        ("cut in the header", bytes[..header / 2].to_vec(), "delta.truncated", vec!["cut off"]),
        ("cut after the header", bytes[..header].to_vec(), "delta.truncated", vec!["cut off"]),
        ("cut in a tensor", bytes[..(header + whole) / 2].to_vec(), "delta.truncated", vec!["cut off"]),
        ("cut by a byte", bytes[..whole - 1].to_vec(), "delta.truncated", vec!["cut off"]),
        ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "delta.header-length", vec![]),
        ("header too long", lie(MAX_HEADER_BYTES as u64 + 1), "delta.header-length", vec!["1048577"]),
        ("header of 2^64 - 1", lie(u64::MAX), "delta.header-length", vec!["18446744073709551615"]),
        ("a key twice", duplicate, "delta.header", vec!["`head.bias`", "twice"]),
        ("overlap", shift(-2), "delta.offsets", vec!["`head.weight`", "overlaps"]),
        ("hole", shift(2), "delta.offsets", vec!["`head.weight`", "hole"]),
        ("trailing bytes", [&bytes[..], b"PK"].concat(), "delta.trailing", vec!["2 bytes"]),
        ("another kind of file", raw("{}", &[]), "delta.foreign", vec!["edge-tune.format"]),
        ("NaN", element([0x00, 0x7e]), "delta.not-finite", vec!["`head.bias`", "element 0", "NaN"]),
        ("infinity", element([0x00, 0xfc]), "delta.not-finite", vec!["`head.bias`", "-inf"]),
        ("beyond f16", tensor(model, "head.weight", Some(weight(1e6))), "delta.range", vec!["`head.weight`", "element 3", "1000000"]),
        ("BF16", edited(&bytes, |h, _| h["head.bias"]["dtype"] = "BF16".into()), "delta.type", vec!["`head.bias`", "BF16"]),
        ("integers", tensor(model, "head.bias", Some(Tensor::vector(&[1i64, 2]))), "delta.wrong-type", vec!["`head.bias`", "i64"]),
        ("extra tensor", tensor(model, "lora.7.query.a", Some(Tensor::vector(&[1f32]))), "delta.unknown-tensor", vec!["`lora.7.query.a`", "`lora`"]),
        ("missing tensor", tensor(model, "lora.1.value.b", None), "delta.missing-tensor", vec!["`lora.1.value.b`"]),
        ("wrong shape", tensor(model, "lora.0.query.a", Some(Tensor::zeros(DType::F16, &[width, 2]))), "delta.wrong-shape", vec!["`lora.0.query.a`", "[32, 2]", "[2, 32]"]),
        ("wrong rank", setting(json!({"rank": "3"})), "delta.wrong-shape", vec!["`lora.0.query.a`"]),
        ("a label too many", with(model, |m| m.labels.push("dim".into())), "delta.label-count", vec!["`head.weight`", "2 rows for 3 labels"]),
        ("another backbone", with(model, |m| m.backbone = other.clone()), "delta.wrong-digest", vec![&"abababababab", model_digest(model)]),
        // Its settings mean nothing here: the backbone is what must be named.
        ("another backbone and settings", with(model, |m| (m.backbone, m.config) = (other.clone(), json!({"layers": "last-12"}))), "delta.wrong-digest", vec!["abab"]),
        ("unknown method", method("magic", json!({})), "method.unknown", vec!["`magic`", "lora"]),
        ("unknown setting", setting(json!({"rank": "2", "ranks": "3"})), "method.unknown-setting", vec!["`ranks`", "`lora`"]),
        ("a setting that is no text", setting(json!({"rank": 2})), "method.setting", vec!["`rank`"]),
        ("rank 0", setting(json!({"rank": "0"})), "method.setting", vec!["`rank` is `0`", "1 to 256"]),
        ("rank -1", setting(json!({"rank": "-1"})), "method.setting", vec!["`rank` is `-1`"]),
        ("rank 10^9", setting(json!({"rank": "1000000000"})), "method.setting", vec!["`rank`"]),
        ("rows 10^9", method("prompt-tuning", json!({"rows": "1000000000"})), "method.setting", vec!["`rows`"]),
        ("more rows than usize", method("p-tuning-v2", json!({"rows": "99999999999999999999"})), "method.setting", vec!["`rows`"]),
        ("bottleneck 10^9", method("adapter", json!({"bottleneck": "1000000000"})), "method.setting", vec!["`bottleneck`"]),
        ("alpha NaN", setting(json!({"rank": "2", "alpha": "nan"})), "method.setting", vec!["`alpha`"]),
        ("layers that are not there", setting(json!({"rank": "2", "layers": "last-9"})), "method.setting", vec!["`layers`", "last-2"]),
        ("failing self-test", self_test(vec![50.0, -50.0]), "runtime.self-test", vec!["`lights`", "input 0"]),
        ("self-test of another length", key(&bytes, "self_test", r#"[{"input":"x","logits":[1],"tolerance":1}]"#), "delta.metadata", vec!["`self_test`", "1 logits for 2 labels"]),
        ("control characters in a label", key(&bytes, "labels", r#"["on","\u001b[2J"]"#), "delta.metadata", vec!["`labels`", "label 1"]),
        ("a label twice", key(&bytes, "labels", r#"["on","on"]"#), "delta.metadata", vec!["`labels`", "twice"]),
        ("control characters in the task", key(&bytes, "task", "a\u{7}b"), "delta.metadata", vec!["`task`"]),
        ("control characters in the config", key(&bytes, "config", r#"{"rank":"\u001b[31m2"}"#), "delta.metadata", vec!["`config`"]),
        ("a task that is a path", key(&bytes, "task", "../x"), "store.task-name", vec!["\"../x\""]),
    ];
    cases
}

fn model_digest(model: &Model) -> &'static str {
    // Messages are compared with literals; one digest for the life of the test is fine to leak.
    Box::leak(model.backbone().digest().to_owned().into_boxed_str())
}

/// Installs as the command line does.
fn install(store: &Store, model: &Model, path: &Path) -> Result<(), StoreError> {
    let check = |delta: &Delta| -> Result<(), Error> {
        let task = model.load(delta)?;
        model.self_test(&task)
    };
    store.install(path, None, check).map(drop)
}

/// The code of what was refused inside a check.
fn code(error: &StoreError) -> &'static str {
    match error {
        StoreError::Refused { source, .. } => source.downcast_ref::<Error>().unwrap().code(),
        other => other.code(),
    }
}

#[test]
fn a_refused_delta_leaves_the_old_one_active() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::open(&backbone(dir.path()), engine()).unwrap();
    let path = dir.path().join("bad.safetensors");
    fs::write(&path, good(&model).to_bytes().unwrap()).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    install(&store, &model, &path).unwrap();
    model.apply(&path).unwrap();
    let (before, resident) = (model.predict(TEXT).unwrap(), model.resident_bytes());
    let entry = store.active("lights").unwrap();
    let blobs = || fs::read_dir(dir.path().join("store/blobs")).unwrap().count();
    assert!((before.scores[0] - 0.5).abs() > 1e-4, "the answer must tell deltas apart");
    let unchanged = |what: &str| {
        assert_eq!(model.predict(TEXT).unwrap(), before, "{what}");
        assert_eq!(model.resident_bytes(), resident, "{what}");
        assert_eq!(store.active("lights").unwrap(), entry, "{what}");
        assert_eq!(blobs(), 1, "{what}");
        assert_eq!(store.list().unwrap().len(), 1, "{what}");
    };
    let cases = cases(&model);
    assert!(cases.len() > 40);
    for (what, bytes, want, parts) in cases {
        fs::write(&path, &bytes).unwrap();
        // The name of a task matters to the store alone.
        if want != "store.task-name" {
            let error = model.apply(&path).expect_err(what);
            check(what, error.code(), &error, want, &parts);
            if want != "runtime.self-test" {
                check(what, want, &error, want, &["bad.safetensors"]);
            }
        }
        let error = install(&store, &model, &path).expect_err(what);
        check(what, code(&error), &error, want, &parts);
        unchanged(what);
    }
    for (path, want) in [(dir.path(), "delta.not-a-file"), (&dir.path().join("no"), "delta.io")] {
        let shown = path.display().to_string();
        let error = model.apply(path).unwrap_err();
        check("a path", error.code(), &error, want, &[&shown]);
        let error = install(&store, &model, path).unwrap_err();
        check("a path", code(&error), &error, want, &[&shown]);
        unchanged("a path");
    }
    // And a good one is taken still.
    fs::write(&path, with(&model, |m| m.created = "later".into())).unwrap();
    install(&store, &model, &path).unwrap();
    assert_eq!(model.apply(&path).unwrap(), before.generation + 1);
}

#[test]
fn a_budget_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::open(&backbone(dir.path()), engine()).unwrap();
    let delta = good(&model);
    let model = model.with_budget(100);
    let error = model.load(&delta).unwrap_err();
    check("budget", error.code(), &error, "runtime.budget", &["`lights`", "100"]);
    assert_eq!(model.predict(TEXT).unwrap_err().code(), "runtime.no-active");
}

/// Removing a task works whatever the state of another one is.
#[test]
fn a_task_is_removed_beside_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::open(&backbone(dir.path()), engine()).unwrap();
    let bytes = good(&model).to_bytes().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    for task in ["one", "two"] {
        store.install(&bytes, Some(task), |_| Ok::<_, String>(())).unwrap();
    }
    fs::write(dir.path().join("store/tasks/two.json"), "{").unwrap();
    store.remove("one").unwrap();
    assert_eq!(store.active("one").unwrap(), None);
    assert_eq!(store.remove("one").unwrap_err().code(), "store.unknown-task");
    assert_eq!(store.active("two").unwrap_err().code(), "store.corrupt");
    // The damaged record may have named the blob: it stays until that record is gone too.
    assert_eq!(fs::read_dir(dir.path().join("store/blobs")).unwrap().count(), 1);
    store.remove("two").unwrap();
    assert_eq!(fs::read_dir(dir.path().join("store/blobs")).unwrap().count(), 0);
}
