//! Tests: input that is broken or hostile. Each case asserts the stable code and that the message
//! names the culprit; what was active before stays so.

mod backbones;
pub mod cli;
mod data;
pub mod deltas;
pub mod external;
mod limits;
mod mutations;
pub mod onnx;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use edge_tune::backbone::{Prepare, prepare};

use crate::support::{engine, fixture};

/// A word-level tokenizer for the tiny BERT of the fixtures.
const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
  "decoder": null,
  "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "lights": 4, "on": 5,
                      "off": 6, "music": 7, "louder": 8, "please": 9}}
}"#;

/// Prepares the tiny BERT with that tokenizer in `dir/backbone`.
fn backbone(dir: &Path) -> PathBuf {
    let (out, tokenizer) = (dir.join("backbone"), dir.join("tokenizer.json"));
    std::fs::write(&tokenizer, TOKENIZER).unwrap();
    let model = fixture("exports/bert-dynamo/model.onnx");
    let options = Prepare { tokenizer: Some(tokenizer), ..Prepare::new(model, &out) };
    prepare(&options, &*engine(), |_| ()).unwrap();
    out
}

/// Asserts the code of an error and that its message holds all of `parts`, on few lines and
/// without anything that steers a terminal.
#[track_caller]
fn check(what: &str, code: &str, message: &impl Display, want: &str, parts: &[&str]) {
    let message = message.to_string();
    assert_eq!(code, want, "{what}: {message}");
    for part in parts {
        assert!(message.contains(part), "{what}: `{part}` is not in `{message}`");
    }
    assert!(message.len() < 1500, "{what}: a message of {} bytes", message.len());
}
