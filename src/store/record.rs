//! What the store writes about a task.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::delta::is_digest;

/// Version of the record format.
const FORMAT: u32 = 1;

/// The deltas of one task: the active one, those before it and those that were rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    format: u32,
    /// Name of the task.
    pub task: String,
    /// Generation that is in use.
    pub active: u64,
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
}

impl Task {
    pub(super) fn new(task: &str) -> Task {
        Task { format: FORMAT, task: task.into(), active: 0, entries: Vec::new() }
    }

    /// The entry that is in use.
    pub fn active_entry(&self) -> Option<&Entry> {
        self.entries.iter().find(|e| e.generation == self.active)
    }

    /// The newest entry that is older than the active one.
    pub fn previous(&self) -> Option<&Entry> {
        self.entries.iter().rfind(|e| e.generation < self.active)
    }

    /// Adds `entry` as the active one, with the next generation. What was rolled back is dropped,
    /// so that a later rollback returns to what was in use before; so are the oldest entries
    /// beyond `keep`.
    pub(super) fn push(&mut self, entry: Entry, keep: usize) -> Entry {
        let generation = self.entries.last().map_or(0, |e| e.generation) + 1;
        let entry = Entry { generation, ..entry };
        self.entries.retain(|e| e.generation <= self.active);
        self.entries.push(entry.clone());
        self.entries.drain(..self.entries.len().saturating_sub(keep));
        self.active = generation;
        entry
    }

    /// Reads and checks the record of `task` in the file `path`.
    pub(super) fn parse(bytes: &[u8], task: &str, path: &Path) -> Result<Task, StoreError> {
        let bad = |reason: String| StoreError::Corrupt {
            path: path.to_path_buf(),
            task: task.into(),
            reason,
        };
        let record: Task = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if record.format != FORMAT {
            return Err(bad(format!("format {}, {FORMAT} is known", record.format)));
        }
        if record.task != task {
            return Err(bad(format!("it is of task {:?}", record.task)));
        }
        if !record.entries.is_sorted_by(|a, b| a.generation < b.generation) {
            return Err(bad("its generations are not in order".into()));
        }
        if let Some(e) = record.entries.iter().find(|e| !is_digest(&e.digest)) {
            return Err(bad(format!("generation {} has no digest", e.generation)));
        }
        if record.entries.last().is_some_and(|e| e.generation == u64::MAX) {
            return Err(bad("its generations are used up".into()));
        }
        if record.active_entry().is_none() {
            return Err(bad(format!("generation {} is active but not there", record.active)));
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
