//! What many tests share: where fixtures and the optional real data lie.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_tune::delta::{Delta, Metadata, digest};
use edge_tune::engine::{Compute, Engine, Prepacked};
use edge_tune::tensor::Tensor;

/// `tests/fixtures/<path>`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// `../shared/<path>` if it is there; otherwise prints that the test is skipped.
pub fn shared(path: &str) -> Option<PathBuf> {
    let p = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if p.exists() {
        return Some(p);
    }
    println!("skipped: the shared data file {path} is absent");
    None
}

/// The engine that `EDGE_TUNE_ENGINE` names, on one thread. Nothing said: `tract`.
pub fn engine() -> Arc<dyn Engine> {
    engine_on(1)
}

/// The same on `threads` threads.
pub fn engine_on(threads: usize) -> Arc<dyn Engine> {
    engine_with(threads, Compute::F32)
}

/// The same with another way to compute products.
pub fn engine_with(threads: usize, compute: Compute) -> Arc<dyn Engine> {
    engine_over(threads, compute, None)
}

/// The same over prepacked weights.
pub fn engine_over(
    threads: usize,
    compute: Compute,
    prepacked: Option<Prepacked>,
) -> Arc<dyn Engine> {
    match std::env::var("EDGE_TUNE_ENGINE").as_deref() {
        #[cfg(feature = "ort")]
        Ok("ort") => {
            let engine = edge_tune::engine::ort::OrtEngine::load(None, threads).unwrap();
            let engine = engine.with_compute(compute);
            Arc::new(match prepacked {
                Some(prepacked) => engine.with_prepacked(prepacked),
                None => engine,
            })
        }
        Err(_) | Ok("" | "tract") => {
            let engine = edge_tune::engine::tract::TractEngine::with_threads(threads);
            let engine = engine.with_compute(compute);
            Arc::new(match prepacked {
                Some(prepacked) => engine.with_prepacked(prepacked),
                None => engine,
            })
        }
        Ok(other) => panic!("no engine {other} in this build"),
    }
}

/// The tensors of a safetensors fixture.
pub fn tensors(path: &Path) -> std::collections::BTreeMap<String, edge_tune::tensor::Tensor> {
    use edge_tune::tensor::{DType, Tensor};
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::I64 => DType::I64,
                safetensors::Dtype::I8 => DType::I8,
                other => panic!("{name}: {other:?}"),
            };
            (name, Tensor::from_bytes(dtype, view.shape(), view.data()).unwrap())
        })
        .collect()
}

/// Largest absolute difference.
pub fn difference(a: &edge_tune::tensor::Tensor, b: &edge_tune::tensor::Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.to_f32().iter().zip(b.to_f32().iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Words of the tokenizer of [`text_backbone`].
pub const WORDS: [&str; 12] =
    ["red", "blue", "green", "cold", "warm", "hot", "loud", "quiet", "big", "small", "old", "new"];

/// The tiny BERT of the fixtures in a temporary directory, with a tokenizer that knows [`WORDS`].
pub fn text_backbone() -> (tempfile::TempDir, PathBuf) {
    use edge_tune::backbone::{Prepare, prepare};
    let dir = tempfile::tempdir().unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let vocab: serde_json::Map<_, _> =
        special.iter().chain(&WORDS).enumerate().map(|(i, w)| (w.to_string(), i.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" }
    });
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let out = dir.path().join("backbone");
    let model = fixture("exports/bert-dynamo/model.onnx");
    let options = Prepare { tokenizer: Some(path), ..Prepare::new(model, &out) };
    prepare(&options, &*engine(), |_| ()).unwrap();
    (dir, out)
}

/// Rows of three classes that a tiny backbone can tell apart, `n` of each.
pub fn colours(n: usize) -> edge_tune::data::Dataset {
    use edge_tune::data::{Dataset, Row};
    let mut rows = Vec::new();
    for i in 0..n {
        for (c, class) in ["red", "blue", "green"].iter().enumerate() {
            let other = WORDS[3 + (i * 5 + c) % 9];
            let text = match i % 3 {
                0 => format!("{class} {other}"),
                1 => format!("{other} {class}"),
                _ => format!("{other} {class} {}", WORDS[3 + (i + 4 * c) % 9]),
            };
            let line = rows.len() as u64 + 2;
            rows.push(Row { text, label: class.to_string(), split: None, line });
        }
    }
    Dataset::new("colours", rows)
}

/// The file of a small delta for task `weather`; `seed` makes it different from others, `parent` is
/// the file that it was trained from.
pub fn weather(seed: f32, parent: Option<&[u8]>) -> Vec<u8> {
    let mut metadata = Metadata::new("linear", &"ab".repeat(32), &["no", "yes"]);
    metadata.task = "weather".into();
    metadata.created.clear();
    metadata.parent = parent.map(digest);
    let weight = Tensor::new(&[2, 2], &[seed, 1.0, 2.0, 3.0]).unwrap();
    let delta = Delta::new(metadata, [("head.weight".to_string(), weight)]).unwrap();
    delta.to_bytes().unwrap()
}

/// Numbers below the one asked for, always the same ones for a seed (xorshift64).
pub fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    }
}
