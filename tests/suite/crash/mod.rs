//! Tests: the store when the power is cut, and when the medium fails, at every single operation.

mod disk;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use edge_tune::delta::Delta;
use edge_tune::store::{Admission, MAX_HISTORY, Store, StoreError, Task};

use self::disk::{Fault, Image, Memory};
use crate::support::weather;

fn child(seed: u32, parent: Option<&[u8]>) -> Vec<u8> {
    weather(seed as f32, parent)
}

fn delta(seed: u32) -> Vec<u8> {
    child(seed, None)
}

fn good(_: &Delta) -> Result<(), String> {
    Ok(())
}

fn open(medium: &Memory) -> Result<Store, StoreError> {
    Store::with_storage(Path::new("store"), Box::new(medium.clone()))
}

/// All that a reader of the store can see, but the time.
fn records(store: &Store) -> Vec<Task> {
    let mut tasks = store.list().unwrap();
    let entries = tasks.iter_mut().flat_map(|t| &mut t.entries);
    entries.for_each(|e| e.installed.clear());
    tasks
}

/// What readers saw while the medium changed, in order.
fn seen(medium: &Memory) -> Vec<Vec<Task>> {
    let images = medium.history();
    let mut seen: Vec<_> =
        images.iter().map(|image| records(&open(&Memory::new(image)).unwrap())).collect();
    seen.dedup();
    seen
}

type Step = fn(&Store) -> Result<(), StoreError>;

/// What is done on a store, after what.
struct Scenario {
    name: &'static str,
    before: Step,
    steps: &'static [Step],
}

fn install(store: &Store, seed: u32) -> Result<(), StoreError> {
    store.install(&delta(seed), None, good).map(drop)
}

fn admit(store: &Store, seed: u32, admission: Admission) -> Result<(), StoreError> {
    store.admit(&delta(seed), None, admission, good).map(drop)
}

fn two(store: &Store) -> Result<(), StoreError> {
    install(store, 1)?;
    install(store, 2)
}

fn family(store: &Store) -> Result<(), StoreError> {
    let (first, second) = (delta(1), child(2, Some(&delta(1))));
    store.install(&first, None, good)?;
    store.install(&second, None, good)?;
    store.install(&child(3, Some(&second)), None, good).map(drop)
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "first", before: |_| Ok(()), steps: &[|s| install(s, 1)] },
    Scenario { name: "switch", before: two, steps: &[|s| install(s, 3)] },
    Scenario {
        name: "switch back and forth",
        before: two,
        steps: &[
            |s| install(s, 3),
            |s| s.rollback("weather").map(drop),
            |s| install(s, 2),
            |s| install(s, 4),
        ],
    },
    Scenario { name: "rollback", before: two, steps: &[|s| s.rollback("weather").map(drop)] },
    Scenario {
        name: "full history",
        before: |s| (0..MAX_HISTORY as u32).try_for_each(|seed| install(s, seed)),
        steps: &[|s| install(s, 100), |s| install(s, 101)],
    },
    Scenario {
        name: "stage and activate",
        before: two,
        steps: &[
            |s| admit(s, 3, Admission::Staged),
            |s| admit(s, 4, Admission::Staged),
            |s| s.activate("weather", Admission::Trial(2), good).map(drop),
            |s| s.confirm("weather", None).map(drop),
        ],
    },
    Scenario {
        name: "trial",
        before: two,
        steps: &[
            |s| admit(s, 3, Admission::Trial(2)),
            |s| s.start("weather")?.unwrap().finish().map(drop),
            |s| s.start("weather")?.unwrap().finish().map(drop),
            |s| s.confirm("weather", Some(3)).map(drop),
        ],
    },
    Scenario {
        name: "trial without an end",
        before: |s| two(s).and_then(|()| admit(s, 3, Admission::Trial(1))),
        steps: &[
            |s| s.start("weather")?.unwrap().finish().map(drop),
            |s| s.start("weather").map(drop),
            |s| install(s, 4),
        ],
    },
    Scenario {
        name: "crash in a trial",
        before: |s| two(s).and_then(|()| admit(s, 3, Admission::Trial(9))),
        steps: &[
            |s| s.start("weather").map(drop),
            |s| s.start("weather").map(drop),
            |s| admit(s, 4, Admission::Trial(9)),
            |s| s.rollback("weather").map(drop),
        ],
    },
    Scenario {
        name: "first trial fails",
        before: |s| admit(s, 1, Admission::Trial(1)),
        steps: &[|s| s.start("weather").map(drop), |s| s.start("weather").map(drop)],
    },
    Scenario {
        name: "undo and forget",
        before: family,
        steps: &[
            |s| s.undo("weather").map(drop),
            |s| s.forget("weather", 2, true).map(drop),
            |s| install(s, 7),
            |s| s.forget("weather", 4, false).map(drop),
            |s| s.forget("weather", 1, false).map(drop),
        ],
    },
    Scenario {
        name: "two tasks",
        before: |s| two(s).and_then(|()| s.install(&delta(2), Some("other"), good).map(drop)),
        steps: &[
            |s| s.install(&delta(5), Some("other"), good).map(drop),
            |s| s.remove("weather"),
            |s| s.rollback("other").map(drop),
            |s| s.remove("other"),
        ],
    },
    Scenario {
        name: "the same again",
        before: |s| admit(s, 1, Admission::Trial(3)),
        steps: &[|s| install(s, 1), |s| install(s, 1)],
    },
    Scenario { name: "collect", before: two, steps: &[Store::collect] },
];

impl Scenario {
    /// True for an error after which the change is seen all the same: it may not last, or bytes
    /// that were to be forgotten are still there.
    fn last_words(&self, e: &StoreError) -> bool {
        e.to_string().contains("cannot sync") || self.name == "undo and forget"
    }

    /// A medium on which all that came before is durable.
    fn prepared(&self) -> Memory {
        let medium = Memory::default();
        (self.before)(&open(&medium).unwrap()).unwrap();
        Memory::new(&medium.live())
    }
}

/// Checks a store after the next start: each task is as in one of `allowed`, every delta that a
/// record names is there, bit for bit, and nothing else is.
fn check(image: &Image, allowed: &[Vec<Task>], what: &str) -> Vec<Task> {
    let medium = Memory::new(image);
    let store = open(&medium).unwrap();
    let found = records(&store);
    assert!(allowed.contains(&found), "{what}: neither old nor new: {found:#?}");
    let mut names = BTreeSet::new();
    for entry in found.iter().flat_map(|t| &t.entries) {
        let delta = store.load(entry).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(delta.digest(), entry.digest, "{what}");
        names.insert(format!("blobs/{}.safetensors", entry.digest));
    }
    names.extend(found.iter().map(|t| format!("tasks/{}.json", t.task)));
    let there: BTreeSet<String> =
        medium.live().keys().map(|p| p.to_string_lossy().into_owned()).collect();
    assert_eq!(there, names, "{what}: a stray file, or one is missing");
    found
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new() {
    let mut images = 0;
    for scenario in SCENARIOS {
        for (i, step) in scenario.steps.iter().enumerate() {
            // Each step starts from a medium on which the steps before it are durable.
            let medium = Memory::new(&medium_after(scenario, i));
            let store = open(&medium).unwrap();
            let old = records(&store);
            step(&store).unwrap();
            // One step or two: a run is counted when it starts and when it came up.
            let allowed = seen(&medium);
            assert_eq!(allowed[0], old, "{}, step {i}", scenario.name);
            assert!(allowed.len() <= 3, "{}, step {i}: {allowed:#?}", scenario.name);
            for (n, image) in medium.crashes().iter().enumerate() {
                let what = format!("{}, step {i}, image {n}", scenario.name);
                check(image, &allowed, &what);
                images += 1;
                // The power may fail again while the next start cleans up, or while the step is
                // done again. It may have nothing left to do.
                let again = Memory::new(image);
                let _ = step(&open(&again).unwrap());
                let allowed = seen(&again);
                for (m, image) in again.crashes().iter().enumerate() {
                    check(image, &allowed, &format!("{what}, cut again, image {m}"));
                    images += 1;
                }
            }
        }
    }
    println!("{images} crash images");
    assert!(images >= 5_000, "only {images} crash images");
}

/// The files after the first `steps` steps.
fn medium_after(scenario: &Scenario, steps: usize) -> Image {
    let medium = scenario.prepared();
    let store = open(&medium).unwrap();
    scenario.steps[..steps].iter().for_each(|step| step(&store).unwrap());
    medium.live()
}

/// Power cuts anywhere in a whole sequence of steps, with nothing made durable in between but what
/// the store itself makes so.
#[test]
fn a_power_cut_in_a_sequence_leaves_a_state_of_it() {
    for scenario in SCENARIOS {
        let medium = scenario.prepared();
        let store = open(&medium).unwrap();
        scenario.steps.iter().for_each(|step| step(&store).unwrap());
        let states = seen(&medium);
        for (n, image) in medium.crashes().iter().enumerate() {
            check(image, &states, &format!("{}, image {n}", scenario.name));
        }
    }
}

#[test]
fn a_failing_medium_leaves_the_old_delta_active() {
    let mut failures = 0;
    for scenario in SCENARIOS {
        for (i, step) in scenario.steps.iter().enumerate() {
            let image = medium_after(scenario, i);
            let after = Memory::new(&image);
            step(&open(&after).unwrap()).unwrap();
            let allowed = seen(&after);
            let new = allowed.last().unwrap();
            for lasting in [false, true] {
                for kind in [ErrorKind::StorageFull, ErrorKind::Other, ErrorKind::PermissionDenied]
                {
                    for at in 0.. {
                        let medium = Memory::new(&image);
                        let store = open(&medium).unwrap();
                        medium.fail(Some(Fault { at, lasting, kind }));
                        let result = step(&store);
                        let reached = medium.operations() > at;
                        medium.fail(None);
                        let what =
                            format!("{}, step {i}, {kind} at {at}, {lasting}", scenario.name);
                        failures += usize::from(reached);
                        if let Err(e) = &result {
                            assert!(
                                ["store.io", "store.damaged"].contains(&e.code()),
                                "{what}: {e}"
                            );
                        }
                        drop(store);
                        let found = check(&medium.live(), &allowed, &what);
                        match &result {
                            Ok(()) => assert_eq!(&found, new, "{what}"),
                            // Nothing to change, or the last step failed, after it was seen.
                            Err(e) if allowed.len() == 1 || scenario.last_words(e) => {}
                            Err(e) => assert_ne!(&found, new, "{what}: {e}"),
                        }
                        if !reached {
                            assert!(result.is_ok(), "{what}");
                            break;
                        }
                    }
                }
            }
        }
    }
    println!("{failures} failures of single operations");
    assert!(failures > 1_000, "only {failures}");
}
