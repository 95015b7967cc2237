use tract_onnx::pb::StringStringEntryProto;

use super::onnx::{Case, mlp, refusal, run};

/// The network with its weight in another file.
pub fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |&(k, v): &(&str, &str)| StringStringEntryProto { key: k.into(), value: v.into() };
    mlp(|_, g| {
        let w = &mut g.initializer[0];
        w.float_data.clear();
        w.data_location = Some(1);
        w.external_data = entries.iter().map(entry).collect();
    })
}

#[test]
fn weights_in_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("model");
    std::fs::create_dir_all(inner.join("sub")).unwrap();
    for secret in ["secret", "model/w.bin", "model/sub/w.bin"] {
        std::fs::write(dir.path().join(secret), [7; 32]).unwrap();
    }
    std::fs::write(inner.join("empty"), []).unwrap();
    let absolute: &'static str =
        Box::leak(dir.path().join("secret").display().to_string().into_boxed_str());
    let at = |path: &str| external(&[("location", path)]);
    let with = |key: &str, value: &str| external(&[("location", "w.bin"), (key, value)]);
    #[rustfmt::skip]
    let mut cases: Vec<Case> = vec![
        ("parent folder", at("../secret"), "onnx.external-path", &["`w`", "`../secret`"]),
        ("parent folder on Windows", at("..\\secret"), "onnx.external-path", &["`w`"]),
        ("absolute", at(absolute), "onnx.external-path", &["`w`", "secret"]),
        ("subfolder", at("sub/w.bin"), "onnx.external-path", &["`w`", "`sub/w.bin`"]),
        ("around", at("sub/../w.bin"), "onnx.external-path", &["`w`"]),
        ("hidden file", at(".w.bin"), "onnx.external-path", &["`w`"]),
        ("no location", external(&[]), "onnx.external-path", &["`w`"]),
        ("a NUL", at("w.bin\0.txt"), "onnx.external-path", &["`w`"]),
        ("a folder", at("sub"), "onnx.external-link", &["`w`", "`sub`"]),
        ("absent", at("gone"), "onnx.external-io", &["`w`", "`gone`"]),
        ("an empty file", at("empty"), "onnx.external-length", &["`w`", "`empty`", "0 bytes"]),
        ("negative offset", with("offset", "-1"), "onnx.external-key", &["`w`", "`-1`"]),
        ("huge offset", with("offset", "18446744073709551615"), "onnx.external-length", &["`w`", "`w.bin`"]),
        ("an offset over 64 bits", with("offset", "18446744073709551616"), "onnx.external-key", &["`w`"]),
        ("an offset near the end", with("offset", "17"), "onnx.external-length", &["17..33", "32 bytes"]),
        ("negative length", with("length", "-16"), "onnx.external-key", &["`w`", "`-16`"]),
        ("huge length", with("length", "9223372036854775807"), "onnx.external-length", &["`w`"]),
        ("a length that is not the shape's", with("length", "12"), "onnx.external-length", &["12 bytes", "16"]),
        ("an attribute of Python", with("__class__", "x"), "onnx.external-key", &["`__class__`"]),
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
        cases.push(("a link", at("link"), "onnx.external-link", &["`w`", "`link`"]));
    }
    run(&inner, cases);
    // With the weights where they should be, the model is read.
    std::fs::write(inner.join("bad.onnx"), with("offset", "16")).unwrap();
    assert_eq!(refusal("good", &inner.join("bad.onnx")).0, "backbone.structure");
    // Of more data than its file holds, before anything is taken from it.
    let huge = mlp(|_, g| {
        let w = &mut g.initializer[0];
        (w.dims, w.data_location) = (vec![1 << 40], Some(1));
        w.external_data =
            vec![StringStringEntryProto { key: "location".into(), value: "w.bin".into() }];
    });
    run(&inner, vec![("2^40 elements", huge, "onnx.external-length", &["`w`", "32 bytes"])]);
}
