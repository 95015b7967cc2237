//! Tests: delta files, good and bad.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use edge_tune::delta::{
    Delta, MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_TENSORS, Metadata, SelfTest, TensorSpec, digest,
};
use edge_tune::tensor::{DType, Tensor};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::json;

fn backbone() -> String {
    "ab".repeat(32)
}

/// A delta with every kind of tensor and every metadata key.
fn sample() -> Delta {
    let mut metadata = Metadata::new("lora", &backbone(), &["no", "yes", "maybe \"ä\""]);
    metadata.config = json!({"rank": 2, "alpha": 4.5, "sites": ["query", "value"]});
    metadata.task = "weather".into();
    metadata.self_test =
        vec![SelfTest { input: "rain?".into(), logits: vec![0.25, -1.5, 3.0], tolerance: 1e-3 }];
    metadata.parent = Some("cd".repeat(32));
    let a: Vec<f32> = (0..8).map(|i| i as f32 / 3.0 - 1.0).collect();
    Delta::new(
        metadata,
        [
            ("lora.0.query.a".to_string(), Tensor::new(&[2, 4], &a).unwrap().to_f16()),
            ("lora.0.query.b".to_string(), Tensor::zeros(DType::F16, &[4, 2])),
            ("head.weight".to_string(), Tensor::new(&[3, 4], &[0.5f32; 12]).unwrap()),
            ("prototypes.count".to_string(), Tensor::vector(&[3i64, 1, 2])),
        ],
    )
    .unwrap()
}

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("lora.0.query.a", &[2, 4]),
        TensorSpec::new("lora.0.query.b", &[4, 2]),
        TensorSpec::new("head.weight", &[3, 4]).per_label(),
        TensorSpec::new("head.bias", &[3]).per_label().optional(),
        TensorSpec::new("prototypes.count", &[3]).counts(),
    ]
}

#[test]
fn write_and_read_give_the_same_delta() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weather.safetensors");
    let delta = sample();
    delta.write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let again = Delta::read(&path).unwrap();
    assert_eq!(again.metadata(), delta.metadata());
    assert_eq!(again.tensors(), delta.tensors());
    assert_eq!(again.to_bytes().unwrap(), bytes);
    assert_eq!(again.digest(), digest(&bytes));
    assert_eq!(again.digest(), delta.digest());
    assert_eq!(again.file_bytes(), bytes.len() as u64);
    assert_eq!(again.tensor("lora.0.query.a").unwrap().dtype(), DType::F16);
    again.validate(&backbone(), &specs()).unwrap();
}

#[test]
fn digest_is_sha256() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(digest(b""), empty);
}

#[test]
fn writing_is_deterministic_and_aligned() {
    let bytes = sample().to_bytes().unwrap();
    for _ in 0..8 {
        assert_eq!(sample_with_created(&bytes), bytes);
    }
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header % 8, 0);
    // Widest elements first: I64, F32, F16.
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let base = bytes.as_ptr() as usize;
    for (name, view) in file.iter() {
        let offset = view.data().as_ptr() as usize - base;
        assert_eq!(offset % (view.dtype().bitsize() / 8), 0, "{name}");
    }
}

fn sample_with_created(like: &[u8]) -> Vec<u8> {
    let created = Delta::parse(like, "like").unwrap().metadata().created.clone();
    let delta = sample();
    let metadata = Metadata { created, ..delta.metadata().clone() };
    let tensors = delta.tensors().iter().map(|(n, t)| (n.clone(), t.clone()));
    Delta::new(metadata, tensors).unwrap().to_bytes().unwrap()
}

/// The example of docs/formats.md, byte for byte: were it to change, old digests would too.
#[test]
fn the_documented_file_is_stable() {
    let mut metadata = Metadata::new("linear", &backbone(), &["no", "yes"]);
    metadata.task = "weather".into();
    metadata.created = "2025-01-01T00:00:00Z".into();
    let weight = Tensor::new(&[2, 3], &[0.5f32, 1.0, -1.0, 0.0, 2.0, 0.25]).unwrap().to_f16();
    let bias = Tensor::zeros(DType::F16, &[2]);
    let tensors = [("head.weight".to_string(), weight), ("head.bias".to_string(), bias)];
    let bytes = Delta::new(metadata, tensors).unwrap().to_bytes().unwrap();
    assert_eq!(bytes.len(), 400);
    assert_eq!(bytes[..8], [0x78, 1, 0, 0, 0, 0, 0, 0]);
    let weight = [0x00, 0x38, 0x00, 0x3c, 0x00, 0xbc, 0x00, 0x00, 0x00, 0x40, 0x00, 0x34];
    assert_eq!(bytes[0x184..], weight);
    let want = "da839b6afe3ee15e40d6c43fb9631b2491e056de9cdf9cb2d99b1d7c6f0fc81e";
    assert_eq!(digest(&bytes), want);
}

/// The reference implementation reads what is written here, with the same values.
#[test]
fn the_safetensors_crate_reads_our_files() {
    let delta = sample();
    let bytes = delta.to_bytes().unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["edge-tune.format"], "1");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), delta.tensors().len());
    for (name, tensor) in delta.tensors() {
        let view = file.tensor(name).unwrap();
        assert_eq!(view.shape(), tensor.shape());
        assert_eq!(view.data(), tensor.bytes());
    }
}

/// And a file of the reference implementation is read here: other key order, other padding.
#[test]
fn files_of_the_safetensors_crate_are_read() {
    use safetensors::tensor::{Dtype, TensorView};
    let weight: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let metadata: HashMap<String, String> = [
        ("edge-tune.format", "1"),
        ("method", "linear"),
        ("backbone", &backbone()),
        ("labels", r#"["a","b"]"#),
        ("made-by", "another tool"),
    ]
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .into();
    let view = TensorView::new(Dtype::F32, vec![2, 1], &weight).unwrap();
    let bytes = safetensors::serialize([("head.weight", view)], Some(metadata)).unwrap();
    let delta = Delta::parse(&bytes, "theirs").unwrap();
    assert_eq!(delta.tensor("head.weight").unwrap().as_slice::<f32>().unwrap(), [1.0, 2.0]);
    // Optional keys have their defaults.
    let m = delta.metadata();
    assert_eq!((m.config.clone(), m.task.as_str(), m.created.as_str()), (json!({}), "", ""));
    assert!(m.self_test.is_empty() && m.parent.is_none());
    assert_eq!(delta.digest(), digest(&bytes));
}

#[test]
fn summary_shows_sizes_and_serializes() {
    let summary = sample().summary();
    assert_eq!(summary.parameters, 8 + 8 + 12 + 3);
    assert_eq!(summary.bytes, sample().file_bytes());
    let lora = summary.tensors.iter().find(|t| t.name == "lora.0.query.a").unwrap();
    assert_eq!((lora.dtype.as_str(), lora.bytes, &lora.shape[..]), ("f16", 16, &[2, 4][..]));
    let text = summary.to_string();
    for part in ["lora", "weather", "head.weight", "f16 [2, 4]", summary.digest.as_str()] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(serde_json::to_value(&summary).unwrap()["tensors"][0]["name"], "head.weight");
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    // The target is a directory that is not empty: the rename at the end fails.
    let target = dir.path().join("d.safetensors");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("old"), "old").unwrap();
    let error = sample().write(&target).unwrap_err();
    assert_eq!(error.code(), "delta.io");
    assert!(error.to_string().contains("d.safetensors"));
    assert_eq!(fs::read(target.join("old")).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(sample().write(&dir.path().join("no/d")).unwrap_err().code(), "delta.io");
}

#[test]
fn a_write_replaces_an_older_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    fs::write(&path, "old").unwrap();
    sample().write(&path).unwrap();
    assert_eq!(Delta::read(&path).unwrap().metadata().task, "weather");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_delta_that_could_not_be_read_is_not_made() {
    let metadata = || Metadata::new("linear", &backbone(), &["a", "b"]);
    let one = |t: Tensor| [("head.weight".to_string(), t)];
    let refused = [
        (Delta::new(metadata(), one(Tensor::vector(&[f32::NAN]))), "delta.not-finite"),
        (Delta::new(metadata(), one(Tensor::vector(&[1i8]))), "delta.type"),
        (Delta::new(metadata(), one(Tensor::vector(&[0f32; 0]))), "delta.size"),
        (Delta::new(metadata(), [("a b".into(), Tensor::scalar(1f32))]), "delta.tensor-name"),
        (Delta::new(metadata(), [("__metadata__".into(), Tensor::scalar(1f32))]), "delta.header"),
        (Delta::new(Metadata { labels: vec![], ..metadata() }, []), "delta.metadata"),
        (
            Delta::new(Metadata { labels: vec!["x".repeat(2 << 20)], ..metadata() }, []),
            "delta.header-length",
        ),
        (
            Delta::new(
                Metadata {
                    self_test: vec![SelfTest {
                        input: String::new(),
                        logits: vec![f32::NAN, 0.0],
                        tolerance: 0.0,
                    }],
                    ..metadata()
                },
                [],
            ),
            "delta.metadata",
        ),
    ];
    for (i, (result, code)) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().code(), code, "case {i}");
    }
}

/// Files that are refused. Each case asserts the code and the words that must be in the message:
/// the file and the culprit.
mod delta_cases {
    use super::*;

    /// A safetensors file with this header and these tensor bytes.
    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    fn metadata() -> BTreeMap<&'static str, String> {
        [
            ("edge-tune.format", "1".to_string()),
            ("method", "linear".to_string()),
            ("backbone", backbone()),
            ("labels", r#"["a","b"]"#.to_string()),
        ]
        .into()
    }

    /// A good header with this list of tensors, in JSON.
    fn tensors(entries: &str, data: &[u8]) -> Vec<u8> {
        let metadata = serde_json::to_string(&metadata()).unwrap();
        raw(&format!(r#"{{"__metadata__":{metadata},{entries}}}"#), data)
    }

    fn tensor(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    /// A good file but for one metadata key: another value, or none.
    fn key(key: &'static str, value: Option<&str>) -> Vec<u8> {
        let mut metadata = metadata();
        match value {
            Some(v) => metadata.insert(key, v.into()),
            None => metadata.remove(key),
        };
        raw(&json!({ "__metadata__": metadata }).to_string(), &[])
    }

    fn one(dtype: &str, shape: &str, begin: u64, end: u64, data: &[u8]) -> Vec<u8> {
        tensors(&format!(r#""w.x":{}"#, tensor(dtype, shape, begin, end)), data)
    }

    fn two(a: (u64, u64), b: (u64, u64), data: &[u8]) -> Vec<u8> {
        let entry = |(begin, end)| tensor("F16", "[2]", begin, end);
        tensors(&format!(r#""one":{},"two":{}"#, entry(a), entry(b)), data)
    }

    #[test]
    fn refused_files() {
        let good = sample().to_bytes().unwrap();
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let lie = |length: u64| [&length.to_le_bytes()[..], &good[8..]].concat();
        let mut non_utf8 = good.clone();
        non_utf8[20] = 0xff;
        let tiny = f32::MIN_POSITIVE.to_le_bytes();
        let many: Vec<String> = (0..=MAX_TENSORS as u64)
            .map(|i| format!(r#""t{i}":{}"#, tensor("F16", "[1]", 2 * i, 2 * i + 2)))
            .collect();
        let nan = [tiny, f32::NAN.to_le_bytes()].concat();
        let self_test = |logits: &str, tolerance: &str| {
            format!(r#"[{{"input":"x","logits":{logits},"tolerance":{tolerance}}}]"#)
        };
        let whole = good.len().to_string();
        let header_end = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;

        #[rustfmt::skip]
        let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
            // Cut off.
            ("empty", vec![], "delta.truncated", "0 bytes"),
            ("only part of the length", good[..7].to_vec(), "delta.truncated", "7 bytes"),
            ("only the length", good[..8].to_vec(), "delta.truncated", "cut off"),
            ("in the header", good[..header_end / 2].to_vec(), "delta.truncated", "cut off"),
            ("no tensor bytes", good[..header_end].to_vec(), "delta.truncated", "cut off"),
            ("in the last tensor", good[..good.len() - 1].to_vec(), "delta.truncated", &whole),
            // Header.
            ("header over the limit", lie(MAX_HEADER_BYTES as u64 + 1), "delta.header-length", "1048577"),
            ("header of 2^64 - 1 bytes", lie(u64::MAX), "delta.header-length", "18446744073709551615"),
            ("header said shorter than it is", lie(40), "delta.header", "EOF"),
            ("header said longer than it is", lie(header_end as u64), "delta.header", "header"),
            ("header of 0 bytes", vec![0; 8], "delta.header", "start with `{`"),
            ("space before the header", raw(" {}", &[]), "delta.header", "start with `{`"),
            ("not UTF-8", non_utf8, "delta.header", "UTF-8"),
            ("not JSON", raw("{weights}", &[]), "delta.header", "column 2"),
            ("an array", raw("[]", &[]), "delta.header", "start with `{`"),
            ("two objects", raw("{}{}", &[]), "delta.header", "trailing"),
            ("deep nesting as a tensor", raw(&format!(r#"{{"w":{deep}}}"#), &[]), "delta.header", "`w`"),
            ("deep nesting in the config", key("config", Some(&deep)), "delta.metadata", "`config`"),
            ("metadata that is no string", raw(r#"{"__metadata__":{"format":1}}"#, &[]), "delta.header", "__metadata__"),
            ("a metadata key twice", raw(r#"{"__metadata__":{"a":"1","a":"1"}}"#, &[]), "delta.header", r#""a" appears twice"#),
            ("metadata twice", raw(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "delta.header", "twice"),
            ("a tensor twice", tensors(&format!(r#""w.x":{0},"w.x":{0}"#, tensor("F16", "[2]", 0, 4)), &[0; 4]), "delta.header", "`w.x`: the key appears twice"),
            ("a field twice", tensors(r#""w.x":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,2]}"#, &[0; 2]), "delta.header", "`w.x`"),
            ("an unknown field", tensors(r#""w.x":{"dtype":"F16","strides":[1],"shape":[1],"data_offsets":[0,2]}"#, &[0; 2]), "delta.header", "`strides`"),
            ("a missing field", tensors(r#""w.x":{"dtype":"F16","data_offsets":[0,2]}"#, &[0; 2]), "delta.header", "`shape`"),
            ("a negative dimension", one("F16", "[-1]", 0, 2, &[0; 2]), "delta.header", "`w.x`"),
            ("a fractional dimension", one("F16", "[1.5]", 0, 2, &[0; 2]), "delta.header", "`w.x`"),
            ("three offsets", tensors(r#""w.x":{"dtype":"F16","shape":[1],"data_offsets":[0,2,2]}"#, &[0; 2]), "delta.header", "`w.x`"),
            // Tensors.
            ("too many tensors", tensors(&many.join(","), &vec![0; 2 * many.len()]), "delta.too-many-tensors", "4097"),
            ("an empty name", tensors(&format!(r#""":{}"#, tensor("F16", "[1]", 0, 2)), &[0; 2]), "delta.tensor-name", r#""""#),
            ("a name with an escape sequence", tensors(&format!(r#""\u001b[2J":{}"#, tensor("F16", "[1]", 0, 2)), &[0; 2]), "delta.tensor-name", r"\u{1b}[2J"),
            ("a long name", tensors(&format!(r#""{}":{}"#, "n".repeat(129), tensor("F16", "[1]", 0, 2)), &[0; 2]), "delta.tensor-name", "nnn"),
            ("rank 9", one("F16", "[1,1,1,1,1,1,1,1,1]", 0, 2, &[0; 2]), "delta.rank", "`w.x` has 9"),
            ("BF16", one("BF16", "[1]", 0, 2, &[0; 2]), "delta.type", "`w.x` is BF16"),
            ("an unknown type", one("F4096", "[1]", 0, 2, &[0; 2]), "delta.type", "F4096"),
            ("a shape that overflows", one("F32", "[18446744073709551615,2]", 0, 4, &[0; 4]), "delta.size", "`w.x`"),
            ("a shape that overflows to 0", one("F32", "[4294967296,4294967296]", 0, 0, &[]), "delta.size", "4294967296"),
            ("a zero beside a huge dimension", one("F32", "[0,18446744073709551615]", 0, 0, &[]), "delta.size", "`w.x`"),
            ("a dimension over 64 bits", one("F32", "[18446744073709551616]", 0, 4, &[0; 4]), "delta.header", "`w.x`"),
            ("no elements", one("F16", "[0]", 0, 0, &[]), "delta.size", "`w.x`"),
            ("more bytes than the shape", one("F16", "[1]", 0, 4, &[0; 4]), "delta.size", "4 bytes"),
            ("fewer bytes than the shape", one("F16", "[3]", 0, 4, &[0; 4]), "delta.size", "[3]"),
            ("huge dimensions that fit 64 bits", one("F16", "[1099511627776]", 0, 2 << 40, &[0; 2]), "delta.truncated", "2199023255"),
            ("offsets at the end of 64 bits", one("F16", "[1]", u64::MAX - 2, u64::MAX, &[0; 2]), "delta.offsets", "`w.x`"),
            ("overlap", two((0, 4), (2, 6), &[0; 6]), "delta.offsets", "`two`"),
            ("the same bytes twice", two((0, 4), (0, 4), &[0; 4]), "delta.offsets", "overlaps"),
            ("a hole", two((0, 4), (6, 10), &[0; 10]), "delta.offsets", "`two` at bytes 6..10: the range leaves a hole"),
            ("a hole at the start", two((2, 6), (6, 10), &[0; 10]), "delta.offsets", "`one`"),
            ("a range that runs backwards", one("F16", "[1]", 2, 0, &[0; 2]), "delta.offsets", "backwards"),
            ("trailing bytes", [&good[..], b"PK\x05\x06"].concat(), "delta.trailing", "4 bytes after"),
            ("NaN in F32", one("F32", "[2]", 0, 8, &nan), "delta.not-finite", "`w.x`: element 1 is NaN"),
            ("infinity in F32", one("F32", "[1]", 0, 4, &f32::NEG_INFINITY.to_le_bytes()), "delta.not-finite", "-inf"),
            ("infinity in F16", one("F16", "[2]", 0, 4, &[0, 0, 0x00, 0x7c]), "delta.not-finite", "element 1 is inf"),
            ("NaN in F16", one("F16", "[1]", 0, 2, &[0x01, 0xfe]), "delta.not-finite", "NaN"),
            // Metadata.
            ("another safetensors file", raw("{}", &[]), "delta.foreign", "not an edge-tune delta"),
            ("no format key", key("edge-tune.format", None), "delta.foreign", "edge-tune.format"),
            ("a later format", key("edge-tune.format", Some("2")), "delta.version", r#""2""#),
            ("no method", key("method", None), "delta.missing-key", "`method`"),
            ("no backbone", key("backbone", None), "delta.missing-key", "`backbone`"),
            ("no labels", key("labels", None), "delta.missing-key", "`labels`"),
            ("an empty method", key("method", Some("")), "delta.metadata", "`method`"),
            ("a task with an escape sequence", key("task", Some("\u{1b}[2J")), "delta.metadata", "`task`"),
            ("a short digest", key("backbone", Some("abcd")), "delta.metadata", "`backbone`"),
            ("a digest in capitals", key("backbone", Some(&"AB".repeat(32))), "delta.metadata", "`backbone`"),
            ("a bad parent", key("parent", Some("../../etc/passwd")), "delta.metadata", "`parent`"),
            ("labels that are not JSON", key("labels", Some("a,b")), "delta.metadata", "`labels`"),
            ("labels that are numbers", key("labels", Some("[1,2]")), "delta.metadata", "`labels`"),
            ("zero labels", key("labels", Some("[]")), "delta.metadata", "empty"),
            ("a label twice", key("labels", Some(r#"["a","a"]"#)), "delta.metadata", r#""a" appears twice"#),
            ("an empty label", key("labels", Some(r#"["a",""]"#)), "delta.metadata", "label 1"),
            ("a config that is no object", key("config", Some("[1]")), "delta.metadata", "`config`"),
            ("a self test of another length", key("self_test", Some(&self_test("[1,2,3]", "0.1"))), "delta.metadata", "test 0 has 3 logits for 2 labels"),
            ("a self test with an infinite logit", key("self_test", Some(&self_test("[1,1e39]", "0.1"))), "delta.metadata", "test 0"),
            ("a self test with a negative tolerance", key("self_test", Some(&self_test("[1,2]", "-1"))), "delta.metadata", "negative"),
            ("a self test that is no list", key("self_test", Some("{}")), "delta.metadata", "`self_test`"),
        ];
        for (what, bytes, code, culprit) in &cases {
            let error = Delta::parse(bytes, "bad.safetensors").expect_err(what);
            let message = error.to_string();
            assert_eq!(error.code(), *code, "{what}: {message}");
            assert!(message.starts_with("bad.safetensors: "), "{what}: {message}");
            assert!(message.contains(culprit), "{what}: `{culprit}` is not in `{message}`");
            assert!(message.len() < 600, "{what}: a message of {} bytes", message.len());
            assert!(!message.contains('\u{1b}'), "{what}: the message holds an escape");
        }
    }

    #[test]
    fn the_frame_of_the_cases_is_good() {
        // Were the frame refused, the cases above would prove nothing.
        Delta::parse(&one("F16", "[2]", 0, 4, &[0; 4]), "good").unwrap();
        Delta::parse(&two((0, 4), (4, 8), &[0; 8]), "good").unwrap();
        Delta::parse(&two((4, 8), (0, 4), &[0; 8]), "good").unwrap();
        Delta::parse(&one("F16", "[]", 0, 2, &[0; 2]), "good").unwrap();
        Delta::parse(&one("F16", "[1,1,1,1,1,1,1,1]", 0, 2, &[0; 2]), "good").unwrap();
        Delta::parse(&key("task", Some("x")), "good").unwrap();
        Delta::parse(&key("self_test", Some("[]")), "good").unwrap();
    }

    #[test]
    fn refused_on_this_backbone() {
        let delta = sample();
        let other = "0".repeat(64);
        let swap = |name: &str, new: TensorSpec| {
            specs().into_iter().map(|s| if s.name == name { new.clone() } else { s }).collect()
        };
        let without =
            |name: &str| specs().into_iter().filter(|s| s.name != name).collect::<Vec<_>>();
        let with = |new: TensorSpec| [specs(), vec![new]].concat();
        let spec = TensorSpec::new;
        #[rustfmt::skip]
        let cases: Vec<(String, Vec<TensorSpec>, &str, &str)> = vec![
            (other, specs(), "delta.wrong-digest", "0000"),
            (backbone(), without("lora.0.query.a"), "delta.unknown-tensor", "`lora.0.query.a`"),
            (backbone(), with(spec("lora.1.query.a", &[2, 4])), "delta.missing-tensor", "`lora.1.query.a`"),
            (backbone(), swap("lora.0.query.a", spec("lora.0.query.a", &[4, 2])), "delta.wrong-shape", "`lora.0.query.a` is [2, 4]"),
            (backbone(), swap("lora.0.query.a", spec("lora.0.query.a", &[8])), "delta.wrong-shape", "[8]"),
            (backbone(), swap("lora.0.query.a", spec("lora.0.query.a", &[2, 4]).per_label()), "delta.label-count", "2 rows for 3 labels"),
            (backbone(), swap("prototypes.count", spec("prototypes.count", &[3])), "delta.wrong-type", "`prototypes.count` holds i64"),
            (backbone(), swap("head.weight", spec("head.weight", &[3, 4]).counts()), "delta.wrong-type", "i64 is needed"),
        ];
        for (backbone, specs, code, culprit) in cases {
            let error = delta.validate(&backbone, &specs).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.to_string().contains(culprit), "`{culprit}` is not in `{error}`");
            assert!(error.to_string().starts_with("new delta `lora`: "), "{error}");
        }
    }

    #[test]
    fn paths_that_are_not_files() {
        let dir = tempfile::tempdir().unwrap();
        let error = Delta::read(dir.path()).unwrap_err();
        assert_eq!(error.code(), "delta.not-a-file", "{error}");
        assert!(error.to_string().contains(&*dir.path().to_string_lossy()));
        let error = Delta::read(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.code(), "delta.io");
        assert!(error.to_string().contains("none: cannot read"), "{error}");
        // A sparse file: its size is known before anything is read.
        let huge = dir.path().join("huge");
        fs::File::create(&huge).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert_eq!(Delta::read(&huge).unwrap_err().code(), "delta.too-large");
    }

    #[cfg(unix)]
    #[test]
    fn special_files_and_links() {
        // Neither waits forever nor reads without end.
        assert_eq!(Delta::read("/dev/zero".as_ref()).unwrap_err().code(), "delta.not-a-file");
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|s| s.success()) {
            assert_eq!(Delta::read(&pipe).unwrap_err().code(), "delta.not-a-file");
        }
        let file = dir.path().join("file");
        sample().write(&file).unwrap();
        std::os::unix::fs::symlink(&file, dir.path().join("link")).unwrap();
        Delta::read(&dir.path().join("link")).unwrap();
    }
}

/// Finite values of every kind, subnormal numbers and both zeros among them.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    prop::collection::vec(1usize..4, 0..4).prop_flat_map(|shape| {
        let n = shape.iter().product::<usize>();
        prop_oneof![
            prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL, n).prop_map(
                {
                    let shape = shape.clone();
                    move |v| Tensor::new(&shape, &v).unwrap()
                }
            ),
            prop::collection::vec(-6e4f32..6e4, n).prop_map({
                let shape = shape.clone();
                move |v| Tensor::new(&shape, &v).unwrap().to_f16()
            }),
            prop::collection::vec(any::<i64>(), n)
                .prop_map(move |v| Tensor::new(&shape, &v).unwrap()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_delta_survives_a_round_trip(
        tensors in prop::collection::btree_map("[a-zA-Z0-9._-]{1,20}", any_tensor(), 0..8),
        labels in prop::collection::btree_set("[^\\p{C}]{1,12}", 1..6),
        config in prop::collection::btree_map("[^\\p{C}]{0,8}", any::<i64>(), 0..4),
        inputs in prop::collection::vec((".{0,20}", -1e6f32..1e6), 0..3),
        task in "[^\\p{C}]{0,12}",
        parent in any::<bool>(),
    ) {
        let labels: Vec<String> = labels.into_iter().collect();
        let mut metadata = Metadata::new("m", &backbone(), &labels);
        metadata.config = json!(config);
        metadata.task = task;
        metadata.parent = parent.then(backbone);
        metadata.self_test = inputs
            .into_iter()
            .map(|(input, v)| SelfTest { input, logits: vec![v; labels.len()], tolerance: 0.5 })
            .collect();
        let delta = Delta::new(metadata.clone(), tensors.clone()).unwrap();
        prop_assert_eq!(delta.metadata(), &metadata);
        prop_assert_eq!(delta.tensors(), &tensors);
        let bytes = delta.to_bytes().unwrap();
        let again = Delta::parse(&bytes, "again").unwrap();
        prop_assert_eq!(again.digest(), delta.digest());
        prop_assert_eq!(again.to_bytes().unwrap(), bytes.clone());
        prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Delta::parse(&bytes, "random").is_err());
    }

    #[test]
    fn random_headers_never_panic(header in "\\{.{0,200}", data in prop::collection::vec(any::<u8>(), 0..16)) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        prop_assert!(Delta::parse(&bytes, "random").is_err());
    }

    /// A changed file is refused, or is another well-formed delta; what is accepted here is also
    /// accepted by the reference implementation.
    #[test]
    fn mutations_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample().to_bytes().unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok(delta) = Delta::parse(&bytes, "mutated") {
            prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
            prop_assert!(delta.to_bytes().is_ok());
        }
    }
}
