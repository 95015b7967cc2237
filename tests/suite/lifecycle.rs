//! Tests: trials that end well or by themselves, and deltas that were trained from one another.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use edge_tune::delta::{Delta, digest};
use edge_tune::store::{Admission, Entry, MAX_HISTORY, State, Store};

use crate::support::weather;

const TASK: &str = "weather";

fn good(_: &Delta) -> Result<(), String> {
    Ok(())
}

/// A store with `n` confirmed deltas.
fn store(dir: &Path, n: u32) -> Store {
    let store = Store::open(dir).unwrap();
    for seed in 0..n {
        store.install(&weather(seed as f32, None), None, good).unwrap();
    }
    store
}

fn on_trial(store: &Store, seed: f32, runs: u32) -> Entry {
    store.admit(&weather(seed, None), None, Admission::Trial(runs), good).unwrap()
}

/// A run that comes up: the generation that it used and whether a trial ended.
fn run(store: &Store) -> (u64, bool) {
    let run = store.start(TASK).unwrap().unwrap();
    let ended = run.reverted().is_some();
    (run.finish().unwrap().generation, ended)
}

fn state(store: &Store, generation: u64) -> State {
    store.task(TASK).unwrap().unwrap().entry(generation).unwrap().state
}

fn names(dir: &Path, sub: &str) -> HashSet<String> {
    let entries = fs::read_dir(dir.join(sub)).unwrap();
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_trial_without_confirmation_ends_after_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    assert_eq!(on_trial(&store, 9.0, 2).state, State::Trial { left: 2, starting: 0 });
    assert_eq!(run(&store), (2, false));
    // Each run of another process counts, and so does one in this.
    assert_eq!(run(&Store::open(dir.path()).unwrap()), (2, false));
    assert_eq!(state(&store, 2), State::Trial { left: 0, starting: 0 });
    assert_eq!(run(&store), (1, true));
    assert_eq!(run(&store), (1, false));
    assert_eq!(state(&store, 2), State::Failed);
    assert!(
        !names(dir.path(), "tasks").contains("weather.run") || {
            store.collect().unwrap();
            !names(dir.path(), "tasks").contains("weather.run")
        }
    );
    // What failed stays known, and a later delta gets a number of its own.
    let next = store.install(&weather(5.0, None), None, good).unwrap();
    assert_eq!(next.generation, 3);
    assert_eq!(state(&store, 2), State::Failed);
    assert_eq!(store.rollback(TASK).unwrap().generation, 1);
}

#[test]
fn a_confirmed_trial_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    on_trial(&store, 9.0, 1);
    assert_eq!(run(&store), (2, false));
    let error = store.confirm(TASK, Some(1)).unwrap_err();
    assert_eq!(error.code(), "store.state");
    assert_eq!(store.confirm(TASK, Some(2)).unwrap().state, State::Confirmed);
    assert_eq!(store.confirm(TASK, None).unwrap().generation, 2);
    for _ in 0..3 {
        assert_eq!(run(&store), (2, false));
    }
    assert_eq!(names(dir.path(), "tasks").len(), 1);
    assert_eq!(store.rollback(TASK).unwrap().generation, 1);
    // Rolled back while confirmed, it has not failed.
    assert_eq!(state(&store, 2), State::Confirmed);
}

#[test]
fn a_run_that_crashes_while_it_comes_up_ends_the_trial() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 2);
    on_trial(&store, 9.0, 10);
    assert_eq!(run(&store), (3, false));
    // A run that is still coming up is no crash, whatever other runs do.
    let slow = store.start(TASK).unwrap().unwrap();
    assert_eq!(run(&store), (3, false));
    assert_eq!(slow.finish().unwrap().generation, 3);
    assert_eq!(run(&store), (3, false));
    // Dropped as in a process that dies.
    drop(store.start(TASK).unwrap().unwrap());
    assert_eq!(run(&store), (2, true));
    assert_eq!(state(&store, 3), State::Failed);
}

#[test]
fn the_first_delta_of_a_task_may_fail_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 0);
    on_trial(&store, 9.0, 1);
    drop(store.start(TASK).unwrap().unwrap());
    assert!(store.start(TASK).unwrap().is_none());
    assert!(store.active(TASK).unwrap().is_none());
    assert_eq!(store.confirm(TASK, None).unwrap_err().code(), "store.state");
    assert_eq!(store.install(&weather(1.0, None), None, good).unwrap().generation, 2);
    assert!(store.start("unheard-of").unwrap().is_none());
}

#[test]
fn a_trial_in_place_of_a_trial_returns_to_what_was_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    on_trial(&store, 8.0, 3);
    let run = store.start(TASK).unwrap().unwrap();
    on_trial(&store, 9.0, 3);
    // The run of the delta before says that it is up. That counts for nothing now.
    assert_eq!(run.finish().unwrap().generation, 2);
    assert_eq!(state(&store, 3), State::Trial { left: 3, starting: 0 });
    assert_eq!(store.rollback(TASK).unwrap().generation, 1);
    assert_eq!(state(&store, 3), State::Failed);
}

#[test]
fn many_failed_trials_do_not_push_out_what_works() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 2);
    for seed in 0..2 * MAX_HISTORY {
        on_trial(&store, 100.0 + seed as f32, 1);
        store.rollback(TASK).unwrap();
    }
    let record = store.task(TASK).unwrap().unwrap();
    assert_eq!((record.active, record.entries.len()), (2, MAX_HISTORY));
    assert_eq!(store.rollback(TASK).unwrap().generation, 1);
}

#[test]
fn a_staged_delta_waits_until_it_is_activated() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    let stage = |seed| store.admit(&weather(seed, None), None, Admission::Staged, good).unwrap();
    assert_eq!(store.activate(TASK, Admission::Confirmed, good).unwrap_err().code(), "store.state");
    assert_eq!(stage(8.0).state, State::Staged);
    assert_eq!(run(&store), (1, false));
    // The newer one takes its place.
    assert_eq!(stage(9.0).generation, 3);
    assert_eq!(names(dir.path(), "blobs").len(), 2);
    let refuse = |_: &Delta| Err::<(), _>("too hot");
    let error = store.activate(TASK, Admission::Confirmed, refuse).unwrap_err();
    assert_eq!(error.code(), "store.refused");
    assert_eq!(run(&store), (1, false));
    let entry = store.activate(TASK, Admission::Trial(2), good).unwrap();
    assert_eq!((entry.generation, entry.state), (3, State::Trial { left: 2, starting: 0 }));
    assert_eq!(run(&store), (3, false));
    // An install in between does not lose what is staged for later, nor activate it.
    let dir = tempfile::tempdir().unwrap();
    let store = self::store(dir.path(), 1);
    store.admit(&weather(8.0, None), None, Admission::Staged, good).unwrap();
    assert_eq!(store.start(TASK).unwrap().unwrap().entry().generation, 1);
}

/// Generation 2 was trained from 1, 3 from 2, and 4 from nothing.
fn family(dir: &Path) -> Store {
    let store = Store::open(dir).unwrap();
    let first = weather(1.0, None);
    let second = weather(2.0, Some(&first));
    let third = weather(3.0, Some(&second));
    for bytes in [&first, &second, &third] {
        store.install(bytes, None, good).unwrap();
    }
    store
}

#[test]
fn undo_follows_the_parents() {
    let dir = tempfile::tempdir().unwrap();
    let store = family(dir.path());
    let generations = |store: &Store| -> Vec<Option<u64>> {
        store.lineage(TASK).unwrap().into_iter().map(|a| a.entry.map(|e| e.generation)).collect()
    };
    assert_eq!(generations(&store), [Some(3), Some(2), Some(1)]);
    assert_eq!(store.undo(TASK).unwrap().generation, 2);
    assert_eq!(store.undo(TASK).unwrap().generation, 1);
    let error = store.undo(TASK).unwrap_err();
    assert_eq!(error.code(), "store.no-parent");
    assert!(error.to_string().contains("not trained from another"), "{error}");
    // A parent that was never here.
    let stranger = weather(7.0, None);
    store.install(&weather(8.0, Some(&stranger)), None, good).unwrap();
    assert_eq!(generations(&store), [Some(4), None]);
    let error = store.undo(TASK).unwrap_err().to_string();
    assert!(error.contains(&digest(&stranger)[..12]) && error.contains("rollback"), "{error}");
    assert_eq!(store.lineage("none").unwrap_err().code(), "store.unknown-task");
}

#[test]
fn forgetting_takes_what_was_trained_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = family(dir.path());
    let unrelated = store.install(&weather(4.0, None), None, good).unwrap();
    let error = store.forget(TASK, 2, false).unwrap_err();
    assert_eq!(error.code(), "store.descendants");
    assert!(error.to_string().contains("generation 3, trained"), "{error}");
    assert_eq!(store.forget(TASK, 9, true).unwrap_err().code(), "store.unknown-generation");
    let gone: Vec<u64> =
        store.forget(TASK, 2, true).unwrap().iter().map(|e| e.generation).collect();
    assert_eq!(gone, [2, 3]);
    assert_eq!(store.active(TASK).unwrap().unwrap(), unrelated);
    assert_eq!(names(dir.path(), "blobs").len(), 2);
    // The active one goes: an older one takes its place, and at last none.
    assert_eq!(store.forget(TASK, 4, false).unwrap().len(), 1);
    assert_eq!(store.active(TASK).unwrap().unwrap().generation, 1);
    assert_eq!(store.forget(TASK, 1, false).unwrap().len(), 1);
    assert!(store.active(TASK).unwrap().is_none());
    assert!(names(dir.path(), "blobs").is_empty() && names(dir.path(), "tasks").is_empty());
}

#[test]
fn forgetting_the_active_one_returns_to_its_ancestor() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = weather(1.0, None);
    store.install(&first, None, good).unwrap();
    store.install(&weather(2.0, None), None, good).unwrap();
    store.install(&weather(3.0, Some(&first)), None, good).unwrap();
    store.forget(TASK, 3, false).unwrap();
    // Not generation 2, which is newer but of another line.
    assert_eq!(store.active(TASK).unwrap().unwrap().generation, 1);
    // Numbers are never used twice.
    assert_eq!(store.install(&weather(5.0, None), None, good).unwrap().generation, 4);
}

#[test]
fn a_delta_that_another_task_has_outlives_forgetting() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1);
    let other = store.install(&weather(0.0, None), Some("other"), good).unwrap();
    store.forget(TASK, 1, false).unwrap();
    assert!(store.load(&other).is_ok());
}

#[test]
fn records_of_version_1_are_read_and_become_version_2() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 2);
    let path = dir.path().join("tasks/weather.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["format"] = 1.into();
    record.as_object_mut().unwrap().remove("next");
    for entry in record["entries"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().retain(|key, _| key != "state" && key != "parent");
    }
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(store.active(TASK).unwrap().unwrap().state, State::Confirmed);
    assert_eq!(store.rollback(TASK).unwrap().generation, 1);
    assert!(fs::read_to_string(&path).unwrap().contains("\"format\": 2"));
    assert_eq!(store.install(&weather(7.0, None), None, good).unwrap().generation, 3);
}

#[test]
fn a_watch_sees_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 0);
    let other = Store::open(dir.path()).unwrap();
    let mut watch = store.watch(TASK, None).unwrap();
    assert_eq!(watch.poll().unwrap(), None);
    let first = other.install(&weather(1.0, None), None, good).unwrap();
    assert_eq!(watch.poll().unwrap(), Some(Some(first.clone())));
    assert_eq!(watch.poll().unwrap(), None);
    // What leaves the active delta as it is, is no change.
    other.admit(&weather(2.0, None), None, Admission::Staged, good).unwrap();
    assert_eq!(watch.poll().unwrap(), None);
    let second = other.activate(TASK, Admission::Confirmed, good).unwrap();
    assert_eq!(watch.poll().unwrap(), Some(Some(second)));
    other.rollback(TASK).unwrap();
    assert_eq!(watch.poll().unwrap(), Some(Some(first)));
    fs::write(dir.path().join("tasks/weather.json"), "{").unwrap();
    assert_eq!(watch.poll().unwrap_err().code(), "store.corrupt");
    assert_eq!(watch.poll().unwrap(), None);
    other.remove(TASK).unwrap();
    assert_eq!(watch.poll().unwrap(), Some(None));
    assert_eq!(store.watch("../up", None).unwrap_err().code(), "store.task-name");
}
