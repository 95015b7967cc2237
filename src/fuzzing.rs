//! What the fuzz targets call, in one place: `fuzz/` drives it with coverage, the test suite
//! replays the committed corpus through it. No part of the public interface.
//!
//! A target takes any bytes. It may refuse them; it must not panic, hang or take memory that the
//! input does not pay for. What is accepted must survive being written and read again.

use std::path::Path;

use crate::data;
use crate::delta::{self, Delta};
use crate::graph::onnx::{self, ExternalData};
use crate::graph::{canonical, sites};
use crate::store;
use crate::tensor::DType;

/// One reader of bytes that are not trusted.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("delta", delta),
    ("metadata", metadata),
    ("onnx", onnx),
    ("external", external),
    ("record", record),
    ("csv", csv),
    ("sound", sound),
    #[cfg(feature = "pull")]
    ("published", published),
    #[cfg(feature = "pull")]
    ("patch", patch),
];

/// A delta file: header, offsets, values, metadata.
pub fn delta(bytes: &[u8]) {
    let Ok(delta) = Delta::parse(bytes, "fuzz") else { return };
    // A header at the very limit may not fit when it is written anew.
    let Ok(written) = delta.to_bytes() else { return };
    let again = Delta::parse(&written, "fuzz").expect("what is written can be read");
    assert_eq!(again.metadata(), delta.metadata());
    assert!(again.tensors().keys().eq(delta.tensors().keys()));
    assert_eq!(again.to_bytes().ok(), Some(written), "writing is deterministic");
    let _ = delta.summary().to_string();
}

/// The strings under `__metadata__`: keys and values in turn, a NUL after each.
pub fn metadata(bytes: &[u8]) {
    delta::check_metadata(pairs(bytes).map(|(k, v)| (k.to_owned(), v.to_owned())));
}

/// An ONNX file without external data, through reading, shape inference, the canonical form and
/// the search for sites.
pub fn onnx(bytes: &[u8]) {
    let Ok(mut graph) = onnx::parse(bytes, Path::new("fuzz.onnx"), ExternalData::none()) else {
        return;
    };
    if canonical::canonicalise(&mut graph).is_ok() && canonical::padding_masks(&mut graph).is_ok() {
        let _ = sites::discover(&graph);
    }
}

/// The entries of a tensor's external data: keys and values in turn, a NUL after each. There is
/// one file, `w.bin`, of 64 bytes, if the folder could be made.
pub fn external(bytes: &[u8]) {
    static FOLDER: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("edge-tune-fuzz-{}", std::process::id()));
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::write(folder.join("w.bin"), [7; 64]);
        folder
    });
    let read = ExternalData::in_folder(folder).tensor("w", DType::I8, &[4], pairs(bytes));
    if let Ok(tensor) = read {
        assert_eq!(tensor.bytes(), [7; 4], "bytes of another file");
    }
}

/// A task's record in the store.
pub fn record(bytes: &[u8]) {
    store::check_record(bytes, "task");
}

/// A CSV file of rows.
pub fn csv(bytes: &[u8]) {
    data::check_csv(bytes, 1 << 20);
}

/// A WAV file.
pub fn sound(bytes: &[u8]) {
    let _ = data::Sound::decode(bytes, Path::new("fuzz.wav"));
}

/// What a publisher's server sends: an index, a root, or signatures.
#[cfg(feature = "pull")]
pub fn published(bytes: &[u8]) {
    use crate::fetch::{Index, Root, Signatures};
    if let Ok(index) = Index::parse(bytes, "fuzz") {
        let written = index.to_bytes("fuzz").expect("what was read can be written");
        assert_eq!(Index::parse(&written, "fuzz").ok(), Some(index));
    }
    let root = Root::parse(bytes, "fuzz");
    if let (Ok(root), Ok(signatures)) = (root, Signatures::parse(bytes, "fuzz")) {
        let _ = root.verify(bytes, &signatures, "fuzz");
    }
    let _ = Signatures::parse(bytes, "fuzz");
}

/// A patch to a file of 4,096 bytes.
#[cfg(feature = "pull")]
pub fn patch(bytes: &[u8]) {
    use crate::fetch::patch;
    let old: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // A patch that one bit is wrong in may well apply; the digest of the result is what counts.
    let _ = patch::apply(&old, bytes, "fuzz");
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let mut parts = bytes.split(|b| *b == 0).map(|p| std::str::from_utf8(p).unwrap_or_default());
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}
