//! Tests: many processes on one store.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_tune::delta::Delta;
use edge_tune::runtime::Model;
use edge_tune::store::{Admission, Store};

use crate::support::engine;
use crate::swap::{TEXTS, lora, model};

const TASKS: [&str; 3] = ["lights", "doors", "music"];
const SEEDS: u64 = 12;

/// Eight processes apply, predict, try, roll back and collect garbage in one store: no error, and
/// every answer is that of the delta whose generation it names. `EDGE_TUNE_SOAK=120` for the full
/// two minutes.
#[test]
fn eight_processes_share_a_store() {
    let seconds = std::env::var("EDGE_TUNE_SOAK").unwrap_or("3".into());
    let dir = tempfile::tempdir().unwrap();
    drop(model(dir.path()));
    let child = |n: u64| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::one_of_eight", "--ignored", "--nocapture"])
            .env("EDGE_TUNE_CHILD", dir.path())
            .env("EDGE_TUNE_CHILD_NUMBER", n.to_string())
            .env("EDGE_TUNE_SOAK", &seconds)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..8).map(child).collect();
    let mut total = [0u64; 3];
    for child in children {
        let out = child.wait_with_output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{text}{errors}");
        let counts =
            text.lines().find_map(|l| l.split_once("counts:")).expect("a child says nothing");
        let counts = counts.1.split_whitespace().map(|n| n.parse::<u64>().unwrap());
        total.iter_mut().zip(counts).for_each(|(t, n)| *t += n);
    }
    let store = Store::open(&dir.path().join("store")).unwrap();
    for task in store.list().unwrap() {
        task.entries.iter().for_each(|e| drop(store.load(e).unwrap()));
    }
    let [predictions, changes, collections] = total;
    println!("{predictions} predictions, {changes} changes, {collections} collections");
    assert!(predictions > 20 && changes > 20 && collections > 0, "{total:?}");
}

/// What each of the eight does. Runs only as their child.
#[test]
#[ignore = "a child of eight_processes_share_a_store"]
fn one_of_eight() {
    let Some(dir) = std::env::var_os("EDGE_TUNE_CHILD") else { return };
    let number: u64 = std::env::var("EDGE_TUNE_CHILD_NUMBER").unwrap().parse().unwrap();
    let seconds: u64 = std::env::var("EDGE_TUNE_SOAK").unwrap().parse().unwrap();
    let dir = Path::new(&dir);
    let model =
        Model::open(&dir.join("backbone"), Arc::new(edge_tune::engine::tract::TractEngine::new()))
            .unwrap_or_else(|_| Model::open(&dir.join("backbone"), engine()).unwrap());
    let deltas: Vec<Delta> = (0..SEEDS).map(|seed| lora(&model, seed)).collect();
    let known: Vec<_> = deltas
        .iter()
        .map(|d| {
            let task = model.load(d).unwrap();
            TEXTS.map(|text| model.predict_with(&task, 0, text).unwrap().scores)
        })
        .collect();
    let store = Store::open(&dir.join("store")).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut x = number + 1;
    let mut draw = |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % n
    };
    let mut newest = [0u64; TASKS.len()];
    let (mut predictions, mut changes, mut collections) = (0u64, 0u64, 0u64);
    while Instant::now() < end {
        let t = draw(TASKS.len() as u64) as usize;
        let task = TASKS[t];
        match draw(10) {
            0 | 1 => {
                let delta = &deltas[draw(SEEDS) as usize];
                let admission = match draw(3) {
                    0 => Admission::Trial(2),
                    1 => Admission::Staged,
                    _ => Admission::Confirmed,
                };
                let check = |d: &Delta| model.load(d).map(drop);
                let entry =
                    store.admit(&delta.to_bytes().unwrap(), Some(task), admission, check).unwrap();
                assert_eq!(entry.digest, delta.digest());
                changes += 1;
            }
            2 => match store.rollback(task) {
                Ok(_) => changes += 1,
                Err(e) => {
                    assert!(["store.no-previous", "store.unknown-task"].contains(&e.code()), "{e}")
                }
            },
            3 => match store.confirm(task, None) {
                Ok(_) => changes += 1,
                Err(e) => {
                    assert!(["store.state", "store.unknown-task"].contains(&e.code()), "{e}");
                }
            },
            4 => {
                store.collect().unwrap();
                drop(Store::open(&dir.join("store")).unwrap());
                collections += 1;
            }
            _ => {
                let Some((entry, delta)) = store.load_active(task).unwrap() else { continue };
                let resident = model.load(&delta).unwrap();
                let seed = deltas.iter().position(|d| d.digest() == entry.digest).unwrap();
                let text = draw(3) as usize;
                let p = model.predict_with(&resident, entry.generation, TEXTS[text]).unwrap();
                assert_eq!(p.scores, known[seed][text], "generation {}", entry.generation);
                assert_eq!(delta.digest(), deltas[seed].digest());
                newest[t] = newest[t].max(entry.generation);
                predictions += 1;
                // A run that comes up, of what is active then.
                if draw(4) == 0
                    && let Some(run) = store.start(task).unwrap()
                {
                    run.finish().unwrap();
                }
            }
        }
        // The numbers of a task only grow.
        if let Some(record) = store.task(task).unwrap() {
            let last = record.entries.last().map_or(0, |e| e.generation);
            assert!(last >= record.active);
        }
    }
    println!("counts: {predictions} {changes} {collections}");
}
