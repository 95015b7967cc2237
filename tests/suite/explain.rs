//! Tests: every error code is explained, and none that is not there any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use edge_tune::explain;

use crate::bad_input::cli::Bench;

/// Codes in the sources: literals `room.name` after an arrow.
fn codes(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes(&path, found);
            continue;
        }
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let Some((_, rest)) = line.split_once("=> \"") else { continue };
            let Some((code, _)) = rest.split_once('"') else { continue };
            let word = |w: &str| {
                !w.is_empty()
                    && w.bytes().all(|b| b.is_ascii_lowercase() || b"-0123456789".contains(&b))
            };
            if code.split_once('.').is_some_and(|(room, name)| word(room) && word(name)) {
                found.insert(code.to_owned());
            }
        }
    }
}

#[test]
fn every_code_has_its_section() {
    let mut have = BTreeSet::new();
    codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut have);
    assert!(have.len() > 100, "{have:?}");
    // Codes that are written otherwise.
    have.extend(["tensor", "usage", "failed", "check.no-backbone"].map(str::to_owned));
    let explained: BTreeSet<String> = explain::codes().map(str::to_owned).collect();
    assert_eq!(explained.len(), explain::codes().count(), "a section twice");
    let missing: Vec<_> = have.difference(&explained).collect();
    let stale: Vec<_> = explained.difference(&have).collect();
    assert!(missing.is_empty() && stale.is_empty(), "missing {missing:?}, stale {stale:?}");
    for code in explain::codes() {
        let text = explain::section(code).unwrap();
        assert!(text.contains("\nCause: ") && text.contains("\nDo: "), "{code}: {text}");
        assert!(!text.contains('#'), "{code}: {text}");
    }
}

#[test]
fn the_command_explains_and_suggests() {
    let b = Bench::new();
    let shown = b.run(&["explain", "delta.wrong-digest"]);
    assert_eq!(shown.exit, Some(0));
    assert!(shown.stdout.starts_with("delta.wrong-digest\n\n"), "{}", shown.stdout);
    let shown = b.run(&["explain", "store.busy", "--json"]).json();
    assert!(shown["text"].as_str().unwrap().contains("Do: wait"), "{shown}");
    let all = b.run(&["explain", "--json"]).json();
    assert!(all["codes"].as_array().unwrap().len() > 100);
    b.fails(&["explain", "delta.digest"], 2, "usage", &["delta.wrong-digest"]);
    // What fails says where to read on.
    let failed = b.run(&["inspect", "absent.safetensors"]);
    assert_eq!(failed.exit, Some(1));
    assert!(failed.stderr.contains("edge-tune explain delta.io"), "{}", failed.stderr);
}
