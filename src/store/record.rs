//! What the store writes about a task.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::delta::is_digest;

/// Version of the record format. Records of version 1, which knew no states, are read too.
const FORMAT: u32 = 2;

/// The deltas of one task: the active one, those before it, those that were rolled back, and one
/// that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    format: u32,
    /// Name of the task.
    pub task: String,
    /// Generation that is in use; 0 if none is.
    pub active: u64,
    /// Number of the next generation; 0 in records of version 1.
    #[serde(default)]
    next: u64,
    /// Installed deltas, oldest first.
    pub entries: Vec<Entry>,
}

/// One installed delta.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts the installations of a task, from 1. Never used twice.
    pub generation: u64,
    /// Digest of the delta file.
    pub digest: String,
    /// Time of installation, RFC 3339 in UTC; empty when the device has no clock.
    pub installed: String,
    /// Method of the delta.
    pub method: String,
    /// Size of the delta file.
    pub bytes: u64,
    /// Digest of the delta that this one was trained on from.
    #[serde(default)]
    pub parent: Option<String>,
    /// How far the delta has come.
    #[serde(default)]
    pub state: State,
}

/// How far an installed delta has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// Stored and checked, but not in use yet.
    Staged,
    /// In use until it is confirmed or its runs are used up.
    Trial {
        /// Runs that may still start.
        left: u32,
        /// Runs that started and did not say that they came up.
        starting: u32,
    },
    /// In use for good; a rollback can return to it.
    #[default]
    Confirmed,
    /// Its trial ended without a confirmation, or it was rolled back during it.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Staged => f.write_str("staged"),
            State::Trial { left, .. } => write!(f, "trial, {left} runs left"),
            State::Confirmed => f.write_str("confirmed"),
            State::Failed => f.write_str("failed"),
        }
    }
}

impl Entry {
    /// True while the delta is in use on trial.
    pub fn on_trial(&self) -> bool {
        matches!(self.state, State::Trial { .. })
    }
}

impl Task {
    pub(super) fn new(task: &str) -> Task {
        Task { format: FORMAT, task: task.into(), active: 0, next: 1, entries: Vec::new() }
    }

    /// The entry of a generation.
    pub fn entry(&self, generation: u64) -> Option<&Entry> {
        self.entries.iter().find(|e| e.generation == generation)
    }

    pub(super) fn entry_mut(&mut self, generation: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.generation == generation)
    }

    /// The entry that is in use.
    pub fn active_entry(&self) -> Option<&Entry> {
        self.entry(self.active)
    }

    /// The entry that waits to be activated.
    pub fn staged(&self) -> Option<&Entry> {
        self.entries.iter().find(|e| e.state == State::Staged)
    }

    /// The newest confirmed entry that is older than the active one.
    pub fn previous(&self) -> Option<&Entry> {
        let older = |e: &&Entry| e.generation < self.active && e.state == State::Confirmed;
        self.entries.iter().rfind(older)
    }

    /// Adds `entry` with the next generation. One that is not staged becomes the active one: then
    /// what was rolled back is dropped, so that a later rollback returns to what was in use
    /// before. One that is staged replaces another that is. Of more than `keep` entries, the
    /// oldest go, but not the active one nor the one before it.
    pub(super) fn push(&mut self, entry: Entry, keep: usize) -> Entry {
        let entry = Entry { generation: self.next, ..entry };
        self.next += 1;
        self.entries.retain(|e| e.state != State::Staged);
        if entry.state != State::Staged {
            self.drop_later();
            self.active = entry.generation;
        }
        self.entries.push(entry.clone());
        self.trim(keep);
        entry
    }

    /// Makes an entry that is there the active one, in the given state.
    pub(super) fn activate(&mut self, generation: u64, state: State) {
        if let Some(at) = self.entries.iter().position(|e| e.generation == generation) {
            let entry = Entry { state, ..self.entries.remove(at) };
            self.drop_later();
            self.active = generation;
            self.entries.push(entry);
            self.entries.sort_by_key(|e| e.generation);
        }
    }

    /// Returns to the entry before the active one, if there is one.
    pub(super) fn revert(&mut self) {
        self.make_active(self.previous().map_or(0, |e| e.generation));
    }

    /// Makes another confirmed entry the active one; 0 for none. A trial that this ends has failed.
    pub(super) fn make_active(&mut self, generation: u64) {
        if let Some(entry) = self.entry_mut(self.active).filter(|e| e.on_trial()) {
            entry.state = State::Failed;
        }
        self.active = generation;
    }

    /// Drops what was rolled back, and a trial that another delta ends.
    fn drop_later(&mut self) {
        let active = self.active;
        self.entries.retain(|e| match e.state {
            State::Trial { .. } => false,
            State::Failed => true,
            State::Staged | State::Confirmed => e.generation <= active,
        });
    }

    fn trim(&mut self, keep: usize) {
        let kept = [self.active, self.previous().map_or(0, |e| e.generation)];
        while self.entries.len() > keep {
            // What failed goes first: a rollback never returns to it.
            let failed = self.entries.iter().position(|e| e.state == State::Failed);
            let old = |e: &Entry| !kept.contains(&e.generation) && e.state != State::Staged;
            let Some(at) = failed.or_else(|| self.entries.iter().position(old)) else { return };
            self.entries.remove(at);
        }
    }

    /// Reads and checks the record of `task` in the file `path`.
    pub(super) fn parse(bytes: &[u8], task: &str, path: &Path) -> Result<Task, StoreError> {
        let bad = |reason: String| StoreError::Corrupt {
            path: path.to_path_buf(),
            task: task.into(),
            reason,
        };
        let mut record: Task = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let last = record.entries.last().map_or(0, |e| e.generation);
        match record.format {
            // Version 1 had no way to be without an active delta.
            1 if record.active > 0 => record.next = last.saturating_add(1),
            1 => return Err(bad("generation 0 is active but not there".into())),
            FORMAT => {}
            other => return Err(bad(format!("format {other}, {FORMAT} is known"))),
        }
        record.format = FORMAT;
        if record.task != task {
            return Err(bad(format!("it is of task {:?}", record.task)));
        }
        if !record.entries.is_sorted_by(|a, b| a.generation < b.generation) {
            return Err(bad("its generations are not in order".into()));
        }
        if record.entries.first().is_some_and(|e| e.generation == 0) {
            return Err(bad("its generations do not start at 1".into()));
        }
        let named = |d: &String| is_digest(d);
        if let Some(e) = record.entries.iter().find(|e| !named(&e.digest)) {
            return Err(bad(format!("generation {} has no digest", e.generation)));
        }
        if let Some(e) = record.entries.iter().find(|e| !e.parent.iter().all(named)) {
            return Err(bad(format!("the parent of generation {} is no digest", e.generation)));
        }
        if last == u64::MAX || record.next == u64::MAX {
            return Err(bad("its generations are used up".into()));
        }
        if record.next <= last {
            return Err(bad(format!("generation {} is to come, {last} is there", record.next)));
        }
        match record.active_entry().map(|e| e.state) {
            None if record.active == 0 => {}
            None => {
                return Err(bad(format!("generation {} is active but not there", record.active)));
            }
            Some(State::Confirmed | State::Trial { .. }) => {}
            Some(state) => {
                return Err(bad(format!("generation {} is active but {state}", record.active)));
            }
        }
        let stray = |e: &&Entry| e.on_trial() && e.generation != record.active;
        if let Some(e) = record.entries.iter().find(stray) {
            return Err(bad(format!("generation {} is on trial but not active", e.generation)));
        }
        if record.entries.iter().filter(|e| e.state == State::Staged).count() > 1 {
            return Err(bad("more than one generation is staged".into()));
        }
        Ok(record)
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// True for a name that is a plain file name on every system.
pub(crate) fn is_task_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}
