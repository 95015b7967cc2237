use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::delta::DeltaError;

/// The store could not do what was asked. The active deltas are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused to read or change a file of the store.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, such as `write`.
        action: &'static str,
        /// The reason of the operating system.
        source: io::Error,
    },
    /// Another process has been changing the store for too long.
    #[error(
        "{}: another process has been changing the store for {waited:?}; wait for it, or end it",
        path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// A task name that cannot be a file name everywhere.
    #[error(
        "task name {task:?}: a name is 1 to 64 letters, digits, dots, dashes and underscores and \
         does not start with a dot; choose one with --task"
    )]
    TaskName {
        /// The name.
        task: String,
    },
    /// No delta is installed for the task.
    #[error("{}: no task `{task}`; install a delta for it with `apply`", store.display())]
    UnknownTask {
        /// The store.
        store: PathBuf,
        /// The task.
        task: String,
    },
    /// There is no earlier delta to return to.
    #[error(
        "task `{task}`: generation {generation} is the oldest, there is nothing to roll back to"
    )]
    NoPrevious {
        /// The task.
        task: String,
        /// The active generation.
        generation: u64,
    },
    /// The task has no such generation.
    #[error("task `{task}`: no generation {generation}; `list` shows those that it has")]
    UnknownGeneration {
        /// The task.
        task: String,
        /// The generation.
        generation: u64,
    },
    /// The task has nothing in the state that was asked for.
    #[error("task `{task}`: no delta is {wanted}; {hint}")]
    State {
        /// The task.
        task: String,
        /// The state, such as `staged`.
        wanted: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The active delta was not trained from one that is stored.
    #[error(
        "task `{task}`: generation {generation} {reason}; `rollback` returns to what was active \
         before it"
    )]
    NoParent {
        /// The task.
        task: String,
        /// The active generation.
        generation: u64,
        /// Why there is no parent.
        reason: String,
    },
    /// Other deltas were trained from the one to forget.
    #[error(
        "task `{task}`: generation {generation} lives on in {}, trained from it; forget them too \
         with --descendants",
        generations(.descendants)
    )]
    Descendants {
        /// The task.
        task: String,
        /// The generation to forget.
        generation: u64,
        /// Generations that were trained from it, oldest first.
        descendants: Vec<u64>,
    },
    /// A task's record is damaged.
    #[error(
        "{}: damaged task record: {reason}; remove task `{task}` and install its delta again",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The task.
        task: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A stored delta is gone or its bytes have changed.
    #[error(
        "{}: damaged delta: {reason}; install it again from its file, or roll back",
        path.display()
    )]
    Damaged {
        /// The stored file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store would be over its budget. Nothing was copied.
    #[error("{}: {have} {what}, at most {most} are allowed; remove a task or raise the limit", store.display())]
    Budget {
        /// The store.
        store: PathBuf,
        /// `bytes` or `tasks`.
        what: &'static str,
        /// What there would be.
        have: u64,
        /// The limit.
        most: u64,
    },
    /// The caller's check refused the delta.
    #[error("{delta}: not installed for task `{task}`: {source}")]
    Refused {
        /// The task.
        task: String,
        /// File or name of the delta.
        delta: String,
        /// The reason of the check.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is not a delta.
    #[error(transparent)]
    Delta(#[from] DeltaError),
}

impl StoreError {
    /// A stable short code. A refused delta file keeps its own, such as `delta.not-finite`.
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::Io { .. } => "store.io",
            StoreError::Busy { .. } => "store.busy",
            StoreError::TaskName { .. } => "store.task-name",
            StoreError::UnknownTask { .. } => "store.unknown-task",
            StoreError::NoPrevious { .. } => "store.no-previous",
            StoreError::UnknownGeneration { .. } => "store.unknown-generation",
            StoreError::State { .. } => "store.state",
            StoreError::NoParent { .. } => "store.no-parent",
            StoreError::Descendants { .. } => "store.descendants",
            StoreError::Corrupt { .. } => "store.corrupt",
            StoreError::Damaged { .. } => "store.damaged",
            StoreError::Budget { .. } => "store.budget",
            StoreError::Refused { .. } => "store.refused",
            StoreError::Delta(e) => e.code(),
        }
    }
}

fn generations(list: &[u64]) -> String {
    let list: Vec<String> = list.iter().map(u64::to_string).collect();
    let noun = if list.len() == 1 { "generation" } else { "generations" };
    format!("{noun} {}", list.join(", "))
}
