//! Tests: a running model that follows a store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use edge_tune::delta::{Delta, SelfTest};
use edge_tune::runtime::{Change, Follower, Following, Model};
use edge_tune::store::{Admission, Entry, Store};

use crate::swap::{TEXTS, lora, model};

const TASK: &str = "lights";

/// A check like the one of `apply`.
fn check(model: &Model) -> impl Fn(&Delta) -> Result<(), edge_tune::Error> + '_ {
    |delta| model.self_test(&*model.load(delta)?)
}

fn admit(store: &Store, model: &Model, seed: u64, admission: Admission) -> Entry {
    let bytes = lora(model, seed).to_bytes().unwrap();
    store.admit(&bytes, Some(TASK), admission, check(model)).unwrap()
}

/// A delta that passes its self-test only where it is installed.
fn wrong(model: &Model, seed: u64) -> Vec<u8> {
    let delta = lora(model, seed);
    let mut metadata = delta.metadata().clone();
    let test = SelfTest { input: TEXTS[0].into(), logits: vec![9.0, -9.0, 0.0], tolerance: 1e-3 };
    metadata.self_test = vec![test];
    let tensors = delta.tensors().iter().map(|(n, t)| (n.clone(), t.clone()));
    Delta::new(metadata, tensors).unwrap().to_bytes().unwrap()
}

/// One process installs while another predicts: every answer is that of the generation it names,
/// and a new delta answers soon. `EDGE_TUNE_PREDICTIONS=100000` for the full count.
#[test]
fn what_is_installed_answers_soon_and_nothing_is_mixed() {
    let wanted = std::env::var("EDGE_TUNE_PREDICTIONS").ok().and_then(|n| n.parse().ok());
    let wanted: usize = wanted.unwrap_or(1_000);
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let model = Arc::new(model);
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let scores = |seed: u64| {
        let task = model.load(&lora(&model, seed)).unwrap();
        TEXTS.map(|text| model.predict_with(&task, 0, text).unwrap().scores)
    };
    let known: Vec<_> = (0..8).map(scores).collect();
    admit(&store, &model, 0, Admission::Confirmed);

    // Model generation -> seed, as the follower reports it, and when it was seen.
    let seeds: Arc<Mutex<HashMap<u64, u64>>> = Arc::default();
    let digests: HashMap<String, u64> =
        (0..8).map(|s| (lora(&model, s).digest().to_string(), s)).collect();
    let (send, seen) = mpsc::channel();
    let report = {
        let seeds = seeds.clone();
        move |change: Result<Change, edge_tune::Error>| match change.unwrap() {
            Change::Swapped { entry, generation, .. } => {
                seeds.lock().unwrap().insert(generation, digests[&entry.digest]);
                send.send((entry.generation, Instant::now())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    };
    let other = Store::open(&path).unwrap();
    let every = Duration::from_millis(20);
    let following = Following::spawn(model.clone(), other, TASK, every, report).unwrap();
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap().0, 1);

    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut waits = Vec::new();
    let answers = thread::scope(|scope| {
        let predicting: Vec<_> = (0..2)
            .map(|n| {
                let (model, done, count) = (&model, &done, &count);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    for round in n.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let text = round % TEXTS.len();
                        let p = model.predict(TEXTS[text]).unwrap();
                        answers.push((p.generation, text, p.scores));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    answers
                })
            })
            .collect();
        for seed in (1..8).cycle() {
            if count.load(Ordering::Relaxed) >= wanted && waits.len() >= 8 {
                break;
            }
            let entry = admit(&store, &model, seed, Admission::Confirmed);
            let installed = Instant::now();
            let (generation, when) = seen.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(generation, entry.generation);
            waits.push(when.saturating_duration_since(installed));
            thread::sleep(Duration::from_millis(30));
        }
        done.store(true, Ordering::Relaxed);
        predicting.into_iter().flat_map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    drop(following);
    let seeds = seeds.lock().unwrap();
    for (generation, text, scores) in &answers {
        let seed = seeds[generation];
        assert_eq!(scores, &known[seed as usize][*text], "generation {generation} mixed");
    }
    waits.sort();
    println!(
        "{} predictions, {} swaps seen after a median of {:?}, at most {:?}",
        answers.len(),
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    assert!(answers.len() >= wanted);
}

#[test]
fn a_trial_that_fails_in_a_running_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut follower = Follower::new(&model, &store, TASK).unwrap();
    assert_eq!(follower.poll().unwrap(), None);
    admit(&store, &model, 1, Admission::Confirmed);
    let Some(Change::Swapped { entry, reverted: None, .. }) = follower.poll().unwrap() else {
        panic!("nothing was swapped in");
    };
    assert_eq!(entry.generation, 1);
    let before = model.active().unwrap().0;
    // Installed by a process that did not try it.
    let bytes = wrong(&model, 2);
    let untested = |_: &Delta| Ok::<(), String>(());
    store.admit(&bytes, Some(TASK), Admission::Trial(3), untested).unwrap();
    let error = follower.poll().unwrap_err();
    assert_eq!(error.code(), "runtime.self-test");
    assert!(follower.trial_failed());
    let Some(Change::Kept { reverted }) = follower.poll().unwrap() else {
        panic!("the trial goes on");
    };
    assert_eq!(reverted.generation, 2);
    assert_eq!((model.active().unwrap().0, follower.poll().unwrap()), (before, None));
    assert_eq!(store.active(TASK).unwrap().unwrap().generation, 1);
    // A process that starts now and one that runs see the same.
    let mut other = Follower::new(&model, &store, TASK).unwrap();
    assert!(matches!(other.poll().unwrap(), Some(Change::Swapped { reverted: None, .. })));
    store.remove(TASK).unwrap();
    assert_eq!(follower.poll().unwrap(), Some(Change::Removed));
    assert!(model.active().is_some());
}

#[test]
fn a_process_that_starts_after_a_failed_trial_has_the_old_delta() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = model(dir.path());
    let store = Store::open(&dir.path().join("store")).unwrap();
    admit(&store, &model, 1, Admission::Confirmed);
    admit(&store, &model, 2, Admission::Trial(1));
    let start = || {
        let mut follower = Follower::new(&model, &store, TASK).unwrap();
        match follower.poll().unwrap() {
            Some(Change::Swapped { entry, reverted, .. }) => {
                (entry.generation, reverted.map(|e| e.generation))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(start(), (2, None));
    assert_eq!(start(), (1, Some(2)));
}
