//! Runs of the active delta, and how a trial ends.

use std::fmt;

use super::{Entry, Lock, State, Store, StoreError, run_path};

/// A run of the active delta that is coming up. It came up when [`Run::finish`] is called.
///
/// A run that is dropped before that, or whose process ends, crashed: a trial ends at the next
/// start.
#[must_use = "a run that is not finished counts as crashed"]
pub struct Run<'a> {
    store: &'a Store,
    task: String,
    entry: Entry,
    reverted: Option<Entry>,
    /// Tells others that this run lives; `None` without a trial.
    alive: Option<Box<dyn Send>>,
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { task, entry, reverted, .. } = self;
        let mut f = f.debug_struct("Run");
        f.field("task", task).field("entry", entry).field("reverted", reverted).finish()
    }
}

impl Run<'_> {
    /// The entry to load.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The entry whose trial this start ended.
    pub fn reverted(&self) -> Option<&Entry> {
        self.reverted.as_ref()
    }

    /// The delta is loaded and works. Its trial goes on until it is confirmed.
    ///
    /// # Errors
    /// If the record cannot be written; the run then counts as crashed.
    pub fn finish(mut self) -> Result<Entry, StoreError> {
        let Some(alive) = self.alive.take() else { return Ok(self.entry) };
        let _lock = self.store.lock()?;
        let generation = self.entry.generation;
        if let Some(mut record) = self.store.record(&self.task)?
            && let Some(entry) = record.entry_mut(generation)
            && let State::Trial { starting, .. } = &mut entry.state
            && *starting > 0
        {
            *starting -= 1;
            self.entry = entry.clone();
            self.store.write_record(&record)?;
        }
        drop(alive);
        Ok(self.entry)
    }
}

impl Store {
    /// Begins a run of the active delta of `task`; `None` if nothing is active. A process calls
    /// this when it starts to use the task, loads [`Run::entry`], and says with [`Run::finish`]
    /// that it came up.
    ///
    /// If the active delta is on trial, the run is counted, durably, before this returns. If an
    /// earlier run crashed while it came up, or none is left, the trial has failed and the delta
    /// before it is active again. Without a trial nothing is written.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the record of the task is damaged; [`StoreError::Io`] if a run
    /// cannot be counted.
    pub fn start(&self, task: &str) -> Result<Option<Run<'_>>, StoreError> {
        let run =
            |entry, reverted, alive| Run { store: self, task: task.into(), entry, reverted, alive };
        match self.active(task)? {
            None => return Ok(None),
            Some(entry) if !entry.on_trial() => return Ok(Some(run(entry, None, None))),
            Some(_) => {}
        }
        let _lock = self.lock()?;
        // Another start may have ended the trial meanwhile.
        let Some(mut record) = self.record(task)? else { return Ok(None) };
        let Some(entry) = record.active_entry().cloned() else { return Ok(None) };
        let State::Trial { left, starting } = entry.state else {
            return Ok(Some(run(entry, None, None)));
        };
        let crashed = starting > 0 && self.nobody_runs(task)?;
        if crashed || left == 0 {
            record.revert();
            self.write_record(&record)?;
            let ended = record.entry(entry.generation).cloned();
            return Ok(record.active_entry().map(|e| run(e.clone(), ended, None)));
        }
        let path = run_path(task)?;
        let alive = self.storage.try_lock(&path, Lock::Shared);
        let alive = alive.map_err(|e| self.io(&path, "lock", e))?;
        let state = State::Trial { left: left - 1, starting: starting + 1 };
        let counted = Entry { state, ..entry };
        if let Some(entry) = record.entry_mut(counted.generation) {
            entry.state = state;
        }
        self.write_record(&record)?;
        Ok(Some(run(counted, None, alive)))
    }

    /// Ends the trial of the active delta of `task` well. Returns its entry, also if it is
    /// confirmed already.
    ///
    /// # Errors
    /// [`StoreError::State`] if nothing is active, or if `generation` is given and another one is
    /// active: what a program tested must be what it confirms.
    pub fn confirm(&self, task: &str, generation: Option<u64>) -> Result<Entry, StoreError> {
        let _lock = self.lock()?;
        let mut record = self.known(task)?;
        let active = record.active;
        let entry =
            record.entry_mut(active).filter(|e| generation.is_none_or(|g| g == e.generation));
        let Some(entry) = entry else {
            return Err(StoreError::State {
                task: task.into(),
                wanted: "active with this generation",
                hint: "`list` shows what is",
            });
        };
        if entry.state == State::Confirmed {
            return Ok(entry.clone());
        }
        entry.state = State::Confirmed;
        let entry = entry.clone();
        self.write_record(&record)?;
        let _ = self.clean_run(task);
        Ok(entry)
    }

    /// True if no run of the task is coming up in a process that lives.
    fn nobody_runs(&self, task: &str) -> Result<bool, StoreError> {
        let path = run_path(task)?;
        let lock = self.storage.try_lock(&path, Lock::Exclusive);
        Ok(lock.map_err(|e| self.io(&path, "lock", e))?.is_some())
    }
}
