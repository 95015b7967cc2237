//! Tests: the store of installed deltas.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use edge_tune::delta::{Delta, Metadata, digest};
use edge_tune::store::{Entry, MAX_HISTORY, Store};

use crate::support::weather;

fn delta(seed: f32) -> Vec<u8> {
    weather(seed, None)
}

fn good(_: &Delta) -> Result<(), String> {
    Ok(())
}

fn active(store: &Store, task: &str) -> Entry {
    store.active(task).unwrap().unwrap()
}

/// Every file below `dir` but the lock, relative to it.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for sub in ["blobs", "tasks"] {
        for entry in fs::read_dir(dir.join(sub)).unwrap() {
            out.insert(format!("{sub}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    out
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}.safetensors", digest(bytes))
}

#[test]
fn install_and_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.safetensors");
    fs::write(&path, delta(1.0)).unwrap();
    let home = dir.path().join("a/b/store");
    let store = Store::open(&home).unwrap();
    assert_eq!(store.active("weather").unwrap(), None);
    let mut seen = String::new();
    let entry = store
        .install(&path, None, |d| {
            seen = d.digest().to_string();
            Ok::<_, String>(())
        })
        .unwrap();
    // The stored copy is independent of the file.
    fs::remove_file(&path).unwrap();
    assert_eq!(seen, digest(&delta(1.0)));
    assert_eq!((entry.generation, entry.method.as_str()), (1, "linear"));
    assert_eq!(entry.digest, seen);
    assert_eq!(entry.bytes, delta(1.0).len() as u64);
    assert_eq!(store.load(&entry).unwrap().digest(), seen);
    let want = BTreeSet::from([blob(&delta(1.0)), "tasks/weather.json".to_string()]);
    assert_eq!(files(&home), want);
    // Another store on the same directory sees the same.
    let again = Store::open(&home).unwrap();
    assert_eq!(active(&again, "weather"), entry);
    let list = again.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].task.as_str(), list[0].active_entry()), ("weather", Some(&entry)));
}

#[cfg(unix)]
#[test]
fn the_store_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("store");
    let store = Store::open(&home).unwrap();
    store.install(&delta(1.0), None, good).unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    for sub in ["", "blobs", "tasks"] {
        assert_eq!(mode(&home.join(sub)), 0o700, "{sub}");
    }
    for file in files(&home).iter().map(String::as_str).chain(["lock"]) {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_failed_check_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let old = store.install(&delta(1.0), None, good).unwrap();
    let before = files(dir.path());
    let error =
        store.install(&delta(2.0), None, |_| Err("accuracy 0.31 is below 0.8")).unwrap_err();
    assert_eq!(error.code(), "store.refused");
    assert!(error.to_string().contains("task `weather`: accuracy 0.31"), "{error}");
    assert_eq!(active(&store, "weather"), old);
    assert_eq!(files(dir.path()), before);

    let mut bytes = delta(2.0);
    *bytes.last_mut().unwrap() = 0xff;
    let at = bytes.len() - 2;
    bytes[at] = 0xff;
    let error = store.install(&bytes, None, good).unwrap_err();
    assert_eq!(error.code(), "delta.not-finite", "{error}");
    let error = store.install(&dir.path().join("none"), None, good).unwrap_err();
    assert_eq!(error.code(), "delta.io");
    let error = store.install(dir.path(), None, good).unwrap_err();
    assert_eq!(error.code(), "delta.not-a-file");
    assert_eq!(active(&store, "weather"), old);
    assert_eq!(files(dir.path()), before);
    // A first installation that fails leaves an empty store.
    store.install(&delta(3.0), Some("other"), |_| Err("no")).unwrap_err();
    assert_eq!(files(dir.path()), before);
}

#[test]
fn rollback_goes_back_through_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let install = |seed| store.install(&delta(seed), None, good).unwrap().generation;
    assert_eq!([install(1.0), install(2.0), install(3.0)], [1, 2, 3]);
    let back = store.rollback("weather").unwrap();
    assert_eq!((back.generation, back.digest), (2, digest(&delta(2.0))));
    // What was rolled back is not returned to: 4 was installed on top of 2.
    assert_eq!(install(4.0), 4);
    assert!(!files(dir.path()).contains(&blob(&delta(3.0))));
    assert_eq!(store.rollback("weather").unwrap().generation, 2);
    assert_eq!(store.rollback("weather").unwrap().generation, 1);
    assert_eq!(active(&store, "weather").digest, digest(&delta(1.0)));
    let error = store.rollback("weather").unwrap_err();
    assert_eq!(error.code(), "store.no-previous");
    assert!(error.to_string().contains("generation 1"), "{error}");
    assert_eq!(active(&store, "weather").generation, 1);
    assert_eq!(store.rollback("none").unwrap_err().code(), "store.unknown-task");
}

#[test]
fn rollback_to_a_damaged_delta_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.install(&delta(1.0), None, good).unwrap();
    let new = store.install(&delta(2.0), None, good).unwrap();
    fs::write(dir.path().join(blob(&delta(1.0))), delta(5.0)).unwrap();
    let error = store.rollback("weather").unwrap_err();
    assert_eq!(error.code(), "store.damaged");
    assert!(error.to_string().contains(&digest(&delta(1.0))), "{error}");
    assert_eq!(active(&store, "weather"), new);
}

#[test]
fn installing_the_active_delta_again_repairs_its_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let entry = store.install(&delta(1.0), None, good).unwrap();
    for damage in [Some(&b"short"[..]), None] {
        let path = dir.path().join(blob(&delta(1.0)));
        match damage {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(store.load(&entry).unwrap_err().code(), "store.damaged");
        assert_eq!(store.install(&delta(1.0), None, good).unwrap(), entry);
        store.load(&entry).unwrap();
    }
    assert_eq!(store.list().unwrap()[0].entries.len(), 1);
}

#[test]
fn the_history_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for seed in 1..=MAX_HISTORY + 3 {
        store.install(&delta(seed as f32), None, good).unwrap();
    }
    let list = store.list().unwrap();
    let generations: Vec<u64> = list[0].entries.iter().map(|e| e.generation).collect();
    assert_eq!(generations, (4..=MAX_HISTORY as u64 + 3).collect::<Vec<_>>());
    assert_eq!(files(dir.path()).len(), MAX_HISTORY + 1);
}

#[test]
fn remove_keeps_what_other_tasks_share() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.install(&delta(1.0), Some("one"), good).unwrap();
    store.install(&delta(2.0), Some("one"), good).unwrap();
    let shared = store.install(&delta(1.0), Some("two"), good).unwrap();
    store.remove("one").unwrap();
    assert_eq!(store.active("one").unwrap(), None);
    store.load(&shared).unwrap();
    let want = BTreeSet::from([blob(&delta(1.0)), "tasks/two.json".to_string()]);
    assert_eq!(files(dir.path()), want);
    assert_eq!(store.remove("one").unwrap_err().code(), "store.unknown-task");
    store.remove("two").unwrap();
    assert_eq!(files(dir.path()), BTreeSet::new());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn task_names_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let long = "x".repeat(65);
    for name in ["", ".", "..", ".x", "a/b", "../lock", "a\\b", "a b", "ä", "a\0", &long] {
        let results = [
            store.install(&delta(1.0), Some(name), good).map(drop),
            store.active(name).map(drop),
            store.rollback(name).map(drop),
            store.remove(name),
        ];
        for result in results {
            assert_eq!(result.unwrap_err().code(), "store.task-name", "{name:?}");
        }
    }
    assert_eq!(files(&dir.path().join("store")), BTreeSet::new());
    for name in ["a", "A-1_b.c", &"x".repeat(64)] {
        store.install(&delta(1.0), Some(name), good).unwrap();
    }
    // A delta that names no task needs one.
    let unnamed = Delta::new(Metadata::new("linear", &"0".repeat(64), &["a"]), []).unwrap();
    let error = store.install(&unnamed.to_bytes().unwrap(), None, good).unwrap_err();
    assert!(error.to_string().contains("--task"), "{error}");
}

#[test]
fn damaged_records_are_named_and_removable() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let fine = store.install(&delta(1.0), Some("fine"), good).unwrap();
    store.install(&delta(2.0), Some("weather"), good).unwrap();
    let path = dir.path().join("tasks/weather.json");
    let record = fs::read_to_string(&path).unwrap();
    let damage = [
        (String::new(), "EOF"),
        (record[..record.len() / 2].to_string(), "EOF"),
        ("[".repeat(100_000), "sequence"),
        (record.replace("\"format\": 2", "\"format\": 3"), "format 3"),
        (record.replace("\"weather\"", "\"other\""), "\"other\""),
        (record.replace("\"active\": 1", "\"active\": 7"), "generation 7"),
        (record.replace(&digest(&delta(2.0)), "../../etc/passwd"), "no digest"),
        (record.replace("\"generation\": 1", "\"generation\": -1"), "invalid value"),
        (record.replace("\"method\"", "\"mode\""), "`mode`"),
        (
            record
                .replace("\"active\": 1", &format!("\"active\": {}", u64::MAX))
                .replace("\"generation\": 1", &format!("\"generation\": {}", u64::MAX)),
            "used up",
        ),
        (" ".repeat(2 << 20), "2097152 bytes"),
    ];
    for (text, culprit) in damage {
        assert_ne!(text, record, "{culprit}: the case changes nothing");
        fs::write(&path, &text).unwrap();
        let results = [
            store.active("weather").map(drop),
            store.rollback("weather").map(drop),
            store.install(&delta(3.0), Some("weather"), good).map(drop),
            store.list().map(drop),
        ];
        for error in results.map(|r| r.unwrap_err()) {
            let message = error.to_string();
            assert_eq!(error.code(), "store.corrupt", "{message}");
            for part in ["weather.json", "remove task `weather`", culprit] {
                assert!(message.contains(part), "`{part}` is not in `{message}`");
            }
        }
        // The rest still works, and opening deletes no delta that the record may have named.
        assert_eq!(active(&Store::open(dir.path()).unwrap(), "fine"), fine);
        assert!(files(dir.path()).contains(&blob(&delta(2.0))));
        assert!(!files(dir.path()).contains(&blob(&delta(3.0))));
    }
    store.remove("weather").unwrap();
    assert_eq!(store.install(&delta(2.0), Some("weather"), good).unwrap().generation, 1);
}

#[test]
fn an_entry_cannot_name_a_file_outside() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    fs::write(dir.path().join("x.safetensors"), delta(1.0)).unwrap();
    let entry = store.install(&delta(1.0), None, good).unwrap();
    let forged = Entry { digest: "../../x".into(), ..entry };
    assert_eq!(store.load(&forged).unwrap_err().code(), "store.damaged");
}

#[cfg(unix)]
#[test]
fn links_inside_the_store_are_not_followed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("store");
    let store = Store::open(&home).unwrap();
    let entry = store.install(&delta(1.0), None, good).unwrap();
    for file in [blob(&delta(1.0)), "tasks/weather.json".to_string()] {
        let outside = dir.path().join("outside");
        fs::rename(home.join(&file), &outside).unwrap();
        symlink(&outside, home.join(&file)).unwrap();
        let codes = [
            store.load(&entry).err().map(|e| e.code()),
            store.active("weather").err().map(|e| e.code()),
        ];
        match file.starts_with("blobs") {
            true => assert_eq!(codes, [Some("store.damaged"), None]),
            false => assert_eq!(codes, [None, Some("store.corrupt")]),
        }
        fs::rename(&outside, home.join(&file)).unwrap();
    }
    // Nor is a directory that is a link, nor a lock.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(home.join("blobs"), other.join("blobs")).unwrap();
    assert_eq!(Store::open(&other).unwrap_err().code(), "store.io");
    fs::remove_file(home.join("lock")).unwrap();
    symlink(dir.path().join("elsewhere"), home.join("lock")).unwrap();
    let error = store.install(&delta(2.0), None, good).unwrap_err();
    assert!(error.to_string().contains("cannot lock"), "{error}");
    assert!(!dir.path().join("elsewhere").exists());
    // The store itself may be reached through a link.
    fs::remove_file(home.join("lock")).unwrap();
    symlink(&home, dir.path().join("link")).unwrap();
    assert_eq!(active(&Store::open(&dir.path().join("link")).unwrap(), "weather"), entry);
}

#[test]
fn opening_removes_what_was_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let entry = store.install(&delta(1.0), None, good).unwrap();
    let clean = files(dir.path());
    fs::write(dir.path().join("blobs/.incoming"), "half").unwrap();
    fs::write(dir.path().join("tasks/.incoming"), "half").unwrap();
    fs::write(dir.path().join(blob(&delta(2.0))), delta(2.0)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(files(dir.path()), clean);
    assert_eq!(active(&store, "weather"), entry);
    // Without a new open too, a half written file is not in the way. Foreign files stay.
    fs::write(dir.path().join("blobs/.incoming"), "half").unwrap();
    fs::write(dir.path().join("blobs/README"), "mine").unwrap();
    store.install(&delta(2.0), None, good).unwrap();
    assert!(!files(dir.path()).contains("blobs/.incoming"));
    assert!(files(dir.path()).contains("blobs/README"));
}

#[test]
fn stores_in_several_threads_take_turns() {
    const EACH: usize = 12;
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for thread in 0..2 {
            let dir = dir.path();
            scope.spawn(move || {
                let store = Store::open(dir).unwrap();
                for i in 0..EACH {
                    let bytes = delta((thread * EACH + i + 1) as f32);
                    let entry = store.install(&bytes, Some("shared"), good).unwrap();
                    assert_eq!(entry.digest, digest(&bytes));
                    let own = format!("own-{thread}");
                    store.install(&bytes, Some(&own), good).unwrap();
                    if i % 4 == 3 {
                        store.remove(&own).unwrap();
                    }
                }
            });
        }
        // A reader always finds a whole delta.
        scope.spawn(|| {
            let store = Store::open(dir.path()).unwrap();
            for _ in 0..200 {
                if let Some(entry) = store.active("shared").unwrap() {
                    store.load(&entry).unwrap();
                }
            }
        });
    });
    let store = Store::open(dir.path()).unwrap();
    let list = store.list().unwrap();
    assert_eq!(list.len(), 1);
    // Every installation got a generation of its own.
    assert_eq!(list[0].active, 2 * EACH as u64);
    for entry in &list[0].entries {
        store.load(entry).unwrap();
    }
    assert_eq!(files(dir.path()).len(), list[0].entries.len() + 1);
}

#[test]
fn a_store_in_use_is_waited_for_and_not_cleaned() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().lock_wait(Duration::from_millis(30));
    let old = store.install(&delta(1.0), None, good).unwrap();
    // Another program holds the lock.
    let lock = fs::File::open(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    fs::write(dir.path().join("blobs/.incoming"), "its work").unwrap();
    let error = store.install(&delta(2.0), None, good).unwrap_err();
    assert_eq!(error.code(), "store.busy");
    assert!(error.to_string().contains("lock: another process"), "{error}");
    assert!(error.to_string().contains("30ms"), "{error}");
    // Reading needs no lock, and opening leaves the work of others alone.
    let other = Store::open(dir.path()).unwrap();
    assert_eq!(active(&other, "weather"), old);
    assert!(files(dir.path()).contains("blobs/.incoming"));
    // A change that waits long enough goes on when the lock is free.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| other.install(&delta(2.0), None, good));
        thread::sleep(Duration::from_millis(20));
        drop(lock);
        assert_eq!(waiting.join().unwrap().unwrap().generation, 2);
    });
}
