//! Tests: `attacks/`. Every file there is loaded as a user would load it, and refused with the
//! code that the table of its README names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edge_tune::delta::Delta;
use edge_tune::store::Store;
use serde_json::{Value, json};
use tract_onnx::pb::StringStringEntryProto;

use crate::bad_input::deltas::raw;
use crate::bad_input::external::external;
use crate::bad_input::onnx::{floats, integers, mlp, nested, node, refusal};

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks")
}

/// File and code of every row of the table.
fn table() -> BTreeMap<String, String> {
    let readme = fs::read_to_string(home().join("README.md")).unwrap();
    let rows = readme.lines().filter(|l| l.starts_with("| `"));
    let cell = |row: &str, n: usize| row.split('|').nth(n).unwrap().trim().replace('`', "");
    rows.map(|row| (cell(row, 1), cell(row, 4))).collect()
}

#[test]
fn every_attack_is_refused() {
    let table = table();
    let mut files: Vec<String> = fs::read_dir(home())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    files.sort();
    assert!(files.iter().eq(table.keys()), "{files:?} against {:?}", table.keys());
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(dir.path().join("secret"), [7; 64]).unwrap();
    fs::write(model.join("w.bin"), [7; 64]).unwrap();
    fs::hard_link(dir.path().join("secret"), model.join("hard.bin")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../secret", model.join("link.bin")).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    for (file, want) in table {
        let bytes = fs::read(home().join(&file)).unwrap();
        assert!(bytes.len() < 40_000, "{file}: {} bytes", bytes.len());
        if file.ends_with(".safetensors") {
            let error = Delta::read(&home().join(&file)).expect_err(&file);
            assert_eq!(error.code(), want, "{file}: {error}");
            let error = store.install(&bytes, Some("t"), |_| Ok::<_, String>(())).expect_err(&file);
            assert_eq!(error.code(), want, "{file}: {error}");
        } else if file.ends_with(".onnx") {
            if cfg!(not(unix)) && (file.contains("link")) {
                continue;
            }
            fs::write(model.join("bad.onnx"), &bytes).unwrap();
            let (code, message) = refusal(&file, &model.join("bad.onnx"));
            assert_eq!(code, want, "{file}: {message}");
        } else {
            // A record of the store.
            let path = dir.path().join("store/tasks/task.json");
            fs::write(&path, &bytes).unwrap();
            let error = store.active("task").expect_err(&file);
            assert_eq!(error.code(), want, "{file}: {error}");
            fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(fs::read_dir(dir.path().join("store/blobs")).unwrap().count(), 0);
}

/// Writes the files: `cargo test write_the_attacks -- --ignored`.
#[test]
#[ignore = "writes into the repository"]
fn write_the_attacks() {
    let write = |name: &str, bytes: &[u8]| fs::write(home().join(name), bytes).unwrap();
    let metadata = json!({
        "edge-tune.format": "1", "method": "linear", "backbone": "0".repeat(64),
        "labels": r#"["no","yes"]"#
    });
    let delta = |tensors: Value, data: &[u8]| {
        let mut header = json!({ "__metadata__": metadata });
        header.as_object_mut().unwrap().extend(tensors.as_object().unwrap().clone());
        raw(&header.to_string(), data)
    };
    let t = |dtype: &str, shape: &[u64], from: u64, to: u64| json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, to] });
    let one = |info: Value, data: &[u8]| delta(json!({ "a": info }), data);
    let file = |name: &str, bytes: Vec<u8>| write(&format!("{name}.safetensors"), &bytes);
    let zip = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    file("polyglot-zip-after", [one(t("F32", &[1], 0, 4), &[0; 4]), zip.to_vec()].concat());
    file(
        "polyglot-pickle-before",
        [b"\x80\x02c".to_vec(), one(t("F32", &[1], 0, 4), &[0; 4])].concat(),
    );
    file("hole", one(t("F32", &[1], 4, 8), &[0; 8]));
    let two = |x: Value, y: Value, data: &[u8]| delta(json!({ "a": x, "b": y }), data);
    file("overlap", two(t("F32", &[2], 0, 8), t("F32", &[2], 4, 12), &[0; 12]));
    file("same-bytes-twice", two(t("F32", &[2], 0, 8), t("F32", &[2], 0, 8), &[0; 8]));
    file("backwards", one(t("F32", &[1], 4, 0), &[0; 4]));
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    file("duplicate-tensor", raw(twice, &[0; 4]));
    let twice = r#"{"__metadata__":{"method":"linear","method":"lora"}}"#;
    file("duplicate-metadata", raw(twice, &[]));
    file("huge-header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    file("header-beyond-limit", [&(1u64 << 20 | 1).to_le_bytes()[..], b"{}"].concat());
    file("deep-json", raw(&"[".repeat(2000).replacen('[', "{\"a\":", 1), &[]));
    file("nan", one(t("F32", &[1], 0, 4), &f32::NAN.to_le_bytes()));
    file("infinity", one(t("F16", &[1], 0, 2), &[0x00, 0x7c]));
    file("rank", one(t("F32", &[1; 9], 0, 4), &[0; 4]));
    file("size-overflow", one(t("F32", &[1 << 40, 1 << 40], 0, 4), &[0; 4]));
    file("shape-lies", one(t("F32", &[1 << 20], 0, 4), &[0; 4]));
    file("empty-tensor", one(t("F32", &[0, 1 << 50], 0, 0), &[]));
    file("truncated", one(t("F32", &[1 << 20], 0, 4 << 20), &[0; 4]));
    file("unnamed-tensor", delta(json!({ "": t("F32", &[1], 0, 4) }), &[0; 4]));
    file("path-as-name", delta(json!({ "../../a": t("F32", &[1], 0, 4) }), &[0; 4]));
    file("type", one(t("BF16", &[2], 0, 4), &[0; 4]));
    let steer = json!({ "__metadata__": { "edge-tune.format": "1", "method": "linear",
        "backbone": "0".repeat(64), "labels": r#"["\u001b[2J"]"# } });
    file("terminal-escape", raw(&steer.to_string(), &[]));

    let onnx = |name: &str, bytes: Vec<u8>| write(&format!("{name}.onnx"), &bytes);
    let at = |path: &str| external(&[("location", path)]);
    let with = |key: &str, value: &str| external(&[("location", "w.bin"), (key, value)]);
    onnx("external-parent", at("../secret"));
    onnx("external-absolute", at("/etc/passwd"));
    onnx("external-normalised", at("sub/../../secret"));
    onnx("external-backslash", at("..\\secret"));
    onnx("external-symlink", at("link.bin"));
    onnx("external-hardlink", at("hard.bin"));
    onnx("external-negative-offset", with("offset", "-1"));
    onnx("external-huge-offset", with("offset", "18446744073709551615"));
    onnx("external-negative-length", with("length", "-16"));
    onnx("external-petabyte-length", with("length", "1125899906842624"));
    onnx("external-attribute", with("__class__", "x"));
    let location = StringStringEntryProto { key: "location".into(), value: "w.bin".into() };
    onnx(
        "external-shape",
        mlp(|_, g| {
            let w = &mut g.initializer[0];
            (w.dims, w.data_location, w.external_data) = (vec![1 << 40], Some(1), vec![location]);
            w.float_data.clear();
        }),
    );
    onnx("deep-recursion", nested(1000));
    onnx("unknown-groups", [0xc3u8, 0x3e].repeat(12_000));
    onnx("length-beyond-file", vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    onnx(
        "allocation",
        mlp(|_, g| {
            g.initializer.push(integers("n", &[1 << 40, 1 << 40]));
            g.node.push(node("ConstantOfShape", &["n"], "c"));
        }),
    );
    onnx("cycle", mlp(|_, g| g.node[0].input[0] = "y".into()));
    onnx("weight-twice", mlp(|_, g| g.initializer.push(floats("w", &[1], &[1.0]))));

    let entry = |digest: &str| json!({ "generation": 1, "digest": digest, "installed": "", "method": "x", "bytes": 1 });
    let record = |active: u64, digest: &str| {
        let entries = [entry(digest)];
        json!({ "format": 1, "task": "task", "active": active, "entries": entries }).to_string()
    };
    write("record-path-as-digest.json", record(1, "../../etc/passwd").as_bytes());
    write("record-active-absent.json", record(2, &"0".repeat(64)).as_bytes());
    write("record-deep.json", "[".repeat(5000).as_bytes());
}
