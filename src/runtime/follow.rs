//! A model that follows a task of a store: what another process installs is swapped in hot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Model, Task};
use crate::Error;
use crate::store::{Entry, Run, Store, Watch};

/// Keeps the active task of a model equal to the active delta of a task in a store.
///
/// The first [`Follower::poll`] loads what is active; later ones load what became active since.
/// While nothing changes, a poll is a look at one file's metadata.
pub struct Follower<'a> {
    model: &'a Model,
    store: &'a Store,
    task: String,
    watch: Watch<'a>,
    loaded: Option<(Entry, Arc<Task>)>,
    /// A run on trial did not come up; the next start ends the trial.
    retry: bool,
}

impl fmt::Debug for Follower<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.loaded.as_ref().map(|(entry, _)| entry);
        f.debug_struct("Follower").field("task", &self.task).field("loaded", &entry).finish()
    }
}

/// What a [`Follower`] did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Another delta serves now.
    Swapped {
        /// Its entry in the store.
        entry: Entry,
        /// The generation of the model that began.
        generation: u64,
        /// The entry whose trial failed and ended, if this is what changed.
        reverted: Option<Entry>,
    },
    /// The trial of another delta failed and ended; the one that served goes on serving.
    Kept {
        /// The entry whose trial failed.
        reverted: Entry,
    },
    /// Nothing is active in the store any more. The delta that served goes on serving.
    Removed,
}

impl<'a> Follower<'a> {
    /// Follows `task` of `store`, which need not be installed yet.
    ///
    /// # Errors
    /// [`StoreError::TaskName`](crate::store::StoreError::TaskName) for a name that no task can
    /// have.
    pub fn new(model: &'a Model, store: &'a Store, task: &str) -> Result<Follower<'a>, Error> {
        let watch = store.watch(task, None)?;
        Ok(Follower { model, store, task: task.into(), watch, loaded: None, retry: false })
    }

    /// The entry that was loaded last and its task.
    pub fn loaded(&self) -> Option<(&Entry, &Arc<Task>)> {
        self.loaded.as_ref().map(|(entry, task)| (entry, task))
    }

    /// True after an error in a trial: the next [`Follower::poll`] ends it.
    pub fn trial_failed(&self) -> bool {
        self.retry
    }

    /// Looks whether another delta is active and swaps it in. A delta on trial must pass its
    /// self-test first.
    ///
    /// # Errors
    /// If the new delta cannot be loaded, once for each; the old one goes on serving. If it was
    /// on trial, the next poll ends the trial.
    pub fn poll(&mut self) -> Result<Option<Change>, Error> {
        let changed = self.watch.poll()?;
        if changed.is_none() && !self.retry {
            return Ok(None);
        }
        self.retry = false;
        let Some(run) = self.store.start(&self.task)? else {
            return Ok(self.loaded.take().map(|_| Change::Removed));
        };
        let reverted = run.reverted().cloned();
        let entry = run.entry().clone();
        if self.loaded.as_ref().is_some_and(|(e, _)| same(e, &entry)) {
            run.finish()?;
            return Ok(reverted.map(|reverted| Change::Kept { reverted }));
        }
        let (task, entry) = match self.bring_up(run) {
            Ok(up) => up,
            Err(e) => {
                self.retry = entry.on_trial();
                return Err(e);
            }
        };
        let generation = self.model.swap(&task);
        self.loaded = Some((entry.clone(), task));
        Ok(Some(Change::Swapped { entry, generation, reverted }))
    }

    fn bring_up(&self, run: Run<'_>) -> Result<(Arc<Task>, Entry), Error> {
        let task = self.model.load(&self.store.load(run.entry())?)?;
        if run.entry().on_trial() {
            self.model.self_test(&task)?;
        }
        Ok((task, run.finish()?))
    }
}

fn same(a: &Entry, b: &Entry) -> bool {
    a.generation == b.generation && a.digest == b.digest
}

/// A thread that polls a [`Follower`] until this is dropped.
#[derive(Debug)]
pub struct Following {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Follows `task` of `store`, looking `every` so often. `report` gets each change and each
    /// error, on the thread that follows. Loading a delta takes milliseconds, so that with 20 ms
    /// here predictions of a new delta begin well within 100 ms of its installation.
    ///
    /// # Errors
    /// As for [`Follower::new`]; or if no thread can be started.
    pub fn spawn(
        model: Arc<Model>,
        store: Store,
        task: &str,
        every: Duration,
        mut report: impl FnMut(Result<Change, Error>) + Send + 'static,
    ) -> Result<Following, Error> {
        store.watch(task, None)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, task) = (stop.clone(), task.to_string());
        let run = move || {
            let Ok(mut follower) = Follower::new(&model, &store, &task) else { return };
            while !stopped.load(Ordering::Acquire) {
                if let Some(change) = follower.poll().transpose() {
                    report(change);
                }
                thread::park_timeout(every);
            }
        };
        let thread = thread::Builder::new().name("edge-tune-follow".into()).spawn(run);
        let thread = thread.map_err(|e| super::RuntimeError::Thread(e.to_string()))?;
        Ok(Following { stop, thread: Some(thread) })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A report that panicked has said so itself.
            let _ = thread.join();
        }
    }
}
