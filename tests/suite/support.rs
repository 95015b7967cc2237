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
