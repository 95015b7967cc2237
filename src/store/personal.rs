//! Deltas that were trained from one another on the device.

use std::collections::HashSet;

use serde::Serialize;

use super::{Entry, State, Store, StoreError, Task};

/// One step of a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Digest of the delta.
    pub digest: String,
    /// Its newest entry in the history of the task; `None` if it is not stored any more.
    pub entry: Option<Entry>,
}

impl Store {
    /// The active delta of `task` and those that it was trained from, newest first. The last one
    /// has no parent or is not stored.
    ///
    /// # Errors
    /// [`StoreError::UnknownTask`] if nothing is installed for the task; [`StoreError::State`] if
    /// nothing is active.
    pub fn lineage(&self, task: &str) -> Result<Vec<Ancestor>, StoreError> {
        let record = self.known(task)?;
        let mut next = active(&record)?.digest.clone();
        let mut line: Vec<Ancestor> = Vec::new();
        // A parent link that leads back, which no training makes, ends the line.
        while !line.iter().any(|a| a.digest == next) {
            let entry = newest(&record, &next);
            let parent = entry.and_then(|e| e.parent.clone());
            line.push(Ancestor { digest: next, entry: entry.cloned() });
            match parent {
                Some(parent) => next = parent,
                None => break,
            }
        }
        Ok(line)
    }

    /// Makes the delta active that the active one was trained from, after checking that it is
    /// whole. Returns its entry.
    ///
    /// # Errors
    /// [`StoreError::NoParent`] if it was trained from none, or from one that is not stored. The
    /// active delta stays so on any error.
    pub fn undo(&self, task: &str) -> Result<Entry, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.known(task)?;
        let current = active(&record)?;
        let none = |reason: String| StoreError::NoParent {
            task: task.into(),
            generation: current.generation,
            reason,
        };
        let digest = current.parent.as_ref();
        let digest = digest.ok_or_else(|| none("was not trained from another delta".into()))?;
        let parent = record.entries.iter().rfind(|e| &e.digest == digest && usable(e));
        let parent = parent.ok_or_else(|| {
            let short = digest.get(..12).unwrap_or(digest);
            none(format!("was trained from delta {short}, which is not stored"))
        })?;
        let parent = parent.clone();
        self.load(&parent)?;
        record.make_active(parent.generation);
        self.write_record(&record)?;
        Ok(parent)
    }

    /// Drops one calibration: the delta of `generation` leaves the history and, unless another
    /// task has it, the medium. With `descendants` those trained from it go too, since they hold
    /// what it learned. If the active one goes, its nearest ancestor that stays becomes active,
    /// else the newest older one, else none. Returns what was dropped, oldest first.
    ///
    /// Flash memory may keep old bytes until it reuses their blocks; only encryption of the medium
    /// helps against who reads it directly.
    ///
    /// # Errors
    /// [`StoreError::Descendants`] if others were trained from it and `descendants` is false;
    /// [`StoreError::UnknownGeneration`] if the task has no such generation.
    pub fn forget(
        &self,
        task: &str,
        generation: u64,
        descendants: bool,
    ) -> Result<Vec<Entry>, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.known(task)?;
        let first = record
            .entry(generation)
            .ok_or_else(|| StoreError::UnknownGeneration { task: task.into(), generation })?;
        let gone = with_descendants(&record, &first.digest);
        let (dropped, stay): (Vec<Entry>, Vec<Entry>) =
            record.entries.iter().cloned().partition(|e| gone.contains(&e.digest));
        let own = |e: &&Entry| e.digest != first.digest;
        let later: Vec<u64> = dropped.iter().filter(own).map(|e| e.generation).collect();
        if !descendants && !later.is_empty() {
            return Err(StoreError::Descendants {
                task: task.into(),
                generation,
                descendants: later,
            });
        }
        if let Some(current) = record.active_entry().filter(|e| gone.contains(&e.digest)) {
            let ancestor = ancestor_that_stays(&record, current, &gone);
            let older = |e: &&Entry| e.generation < current.generation && usable(e);
            let next = ancestor.or_else(|| stay.iter().rfind(older));
            let next = next.map_or(0, |e| e.generation);
            record.make_active(next);
        }
        record.entries.retain(|e| !gone.contains(&e.digest));
        match record.entries.is_empty() {
            true => self.remove_record(task)?,
            false => self.write_record(&record)?,
        }
        // Forgetting is done only when the bytes are gone too.
        self.clean()?;
        self.sync(super::BLOBS)?;
        Ok(dropped)
    }
}

fn active(record: &Task) -> Result<&Entry, StoreError> {
    record.active_entry().ok_or_else(|| StoreError::State {
        task: record.task.clone(),
        wanted: "active",
        hint: "install one with `apply`",
    })
}

fn newest<'a>(record: &'a Task, digest: &str) -> Option<&'a Entry> {
    record.entries.iter().rfind(|e| e.digest == digest)
}

/// True for a delta that may become active without a new check.
fn usable(entry: &Entry) -> bool {
    entry.state == State::Confirmed
}

/// `digest` and the digests of all entries that were trained from it, over any number of steps.
fn with_descendants(record: &Task, digest: &str) -> HashSet<String> {
    let mut gone = HashSet::from([digest.to_string()]);
    loop {
        let before = gone.len();
        let children = record.entries.iter().filter(|e| e.parent.iter().any(|p| gone.contains(p)));
        let children: Vec<String> = children.map(|e| e.digest.clone()).collect();
        gone.extend(children);
        if gone.len() == before {
            return gone;
        }
    }
}

fn ancestor_that_stays<'a>(
    record: &'a Task,
    from: &'a Entry,
    gone: &HashSet<String>,
) -> Option<&'a Entry> {
    let mut at = from;
    // No line is longer than the history.
    for _ in 0..record.entries.len() {
        at = newest(record, at.parent.as_ref()?)?;
        if !gone.contains(&at.digest) {
            return Some(at).filter(|e| usable(e));
        }
    }
    None
}
