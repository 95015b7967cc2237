//! Tests: what `doctor` and the check behind it find.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use edge_tune::delta::{Delta, Metadata, digest};
use edge_tune::store::{Severity, Store, check};
use edge_tune::tensor::Tensor;

use crate::bad_input::cli::Bench;

fn delta(seed: f32) -> Vec<u8> {
    let mut metadata = Metadata::new("linear", &"ab".repeat(32), &["no", "yes"]);
    metadata.created.clear();
    let weight = Tensor::new(&[2, 2], &[seed, 1.0, 2.0, 3.0]).unwrap();
    let delta = Delta::new(metadata, [("head.weight".to_string(), weight)]).unwrap();
    delta.to_bytes().unwrap()
}

fn codes(dir: &Path, backbones: &[&str]) -> BTreeSet<&'static str> {
    check(dir, backbones).into_iter().map(|f| f.code).collect()
}

#[test]
fn a_check_finds_what_is_wrong_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("store");
    assert_eq!(codes(&home, &[]), BTreeSet::from(["check.absent"]));
    assert!(!home.exists());
    let store = Store::open(&home).unwrap();
    for (task, seed) in [("one", 1.0), ("one", 2.0), ("two", 3.0)] {
        store.install(&delta(seed), Some(task), |_| Ok::<_, String>(())).unwrap();
    }
    let own = "ab".repeat(32);
    assert_eq!(codes(&home, &[&own]), BTreeSet::new());
    assert_eq!(codes(&home, &["other"]), BTreeSet::from(["check.other-backbone"]));

    let blob = |seed| home.join(format!("blobs/{}.safetensors", digest(&delta(seed))));
    fs::write(home.join("blobs/.incoming"), "half").unwrap();
    fs::write(home.join("tasks/README"), "mine").unwrap();
    fs::write(home.join("notes"), "mine").unwrap();
    fs::write(blob(9.0), delta(9.0)).unwrap();
    let want = BTreeSet::from(["check.interrupted", "check.stray", "check.unused"]);
    #[cfg(unix)]
    let want = {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(blob(3.0), fs::Permissions::from_mode(0o644)).unwrap();
        // What was written by hand just now may be read by others too.
        &want | &BTreeSet::from(["check.permissions"])
    };
    assert_eq!(codes(&home, &[&own]), want);
    let lock = fs::File::open(home.join("lock")).unwrap();
    lock.lock().unwrap();
    assert!(codes(&home, &[]).contains("check.locked"));
    drop(lock);

    // An older delta that is damaged is a warning, an active one is broken.
    fs::write(blob(1.0), "damage").unwrap();
    let found = check(&home, &[]);
    assert!(found.iter().all(|f| f.severity < Severity::Broken), "{found:?}");
    fs::remove_file(blob(2.0)).unwrap();
    fs::write(home.join("tasks/two.json"), "{").unwrap();
    let found = check(&home, &[]);
    let broken: Vec<_> =
        found.iter().filter(|f| f.severity == Severity::Broken).map(|f| f.code).collect();
    assert_eq!(broken, ["store.damaged", "store.corrupt"], "{found:?}");
    assert_eq!(found[0].severity, Severity::Broken, "the worst comes first");
    // Nobody knows what the damaged record used.
    assert!(!found.iter().any(|f| f.code == "check.unused"), "{found:?}");
    assert!(home.join("blobs/.incoming").exists());
}

#[test]
fn the_command_says_what_to_do() {
    let b = Bench::new();
    let shown = b.run(&["doctor", "--json"]);
    assert_eq!(shown.exit, Some(0), "{}", shown.stdout);
    let shown = shown.json();
    assert_eq!(
        (&shown["broken"], &shown["engine"]),
        (&false.into(), &crate::support::engine().name().into())
    );
    assert_eq!(shown["digest"].as_str().unwrap().len(), 64);
    assert_eq!(shown["findings"][0]["code"], "check.absent");

    let weights = fs::read(b.path("backbone/weights.bin")).unwrap();
    let mut damaged = weights.clone();
    damaged[weights.len() / 2] ^= 1;
    b.write("backbone/weights.bin", damaged);
    let shown = b.run(&["doctor"]);
    assert_eq!(shown.exit, Some(1), "{}", shown.stdout);
    assert!(shown.stdout.contains("broken   backbone.digest"), "{}", shown.stdout);
    assert!(shown.stdout.contains("do: copy the backbone again"), "{}", shown.stdout);
    assert!(shown.stdout.contains("something is broken"), "{}", shown.stdout);
}
