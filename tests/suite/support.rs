//! What many tests share: where fixtures and the optional real data lie.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

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
