use crate::methods::MethodError;

/// A swap or a prediction was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Nothing is active.
    #[error("no delta is active; apply one first")]
    NoActive,
    /// Another swap came first.
    #[error("generation {expected} was expected to be active, {active} is; look again and retry")]
    Generation {
        /// What the caller expected.
        expected: u64,
        /// What is active.
        active: u64,
    },
    /// Loading the delta would exceed the budget.
    #[error(
        "the delta `{task}` takes {needs} bytes, {free} are left of the budget of {budget}; unload a task or raise the budget"
    )]
    Budget {
        /// Its task.
        task: String,
        /// Bytes it takes.
        needs: usize,
        /// Bytes left.
        free: usize,
        /// All bytes.
        budget: usize,
    },
    /// There would be more resident deltas than the budget allows.
    #[error(
        "the delta `{task}` would be one too many: {most} may be resident; drop a task or raise the budget"
    )]
    Resident {
        /// Its task.
        task: String,
        /// How many may be resident.
        most: usize,
    },
    /// The backbone does not take this kind of input.
    #[error("the backbone `{backbone}` takes {takes}, not {given}")]
    Input {
        /// The backbone.
        backbone: String,
        /// What it takes.
        takes: &'static str,
        /// What it was given.
        given: &'static str,
    },
    /// The delta's method or settings are not known here, or do not fit the backbone.
    #[error("{delta}: {source}")]
    Method {
        /// File or name of the delta.
        delta: String,
        /// What does not fit.
        source: MethodError,
    },
    /// The delta gave another answer on its own self-test than where it was made.
    #[error(
        "self-test of `{task}` failed on input {input}: scores differ by {difference:.4}, at most {tolerance:.4} is allowed; the delta or the backbone is damaged"
    )]
    SelfTest {
        /// Its task.
        task: String,
        /// Number of the input.
        input: usize,
        /// Largest difference.
        difference: f32,
        /// What is allowed.
        tolerance: f32,
    },
    /// The operating system starts no thread.
    #[error("no thread to follow the store could be started: {0}")]
    Thread(String),
    /// The program gave scores of another shape than the labels.
    #[error("the program gave {have} scores for {want} labels")]
    Scores {
        /// Scores.
        have: usize,
        /// Labels.
        want: usize,
    },
}

impl RuntimeError {
    /// A stable short code. A method or setting that is refused keeps its own.
    pub fn code(&self) -> &'static str {
        match self {
            RuntimeError::NoActive => "runtime.no-active",
            RuntimeError::Generation { .. } => "runtime.generation",
            RuntimeError::Budget { .. } => "runtime.budget",
            RuntimeError::Resident { .. } => "runtime.resident",
            RuntimeError::Input { .. } => "runtime.input",
            RuntimeError::Method { source, .. } => source.code(),
            RuntimeError::SelfTest { .. } => "runtime.self-test",
            RuntimeError::Thread(_) => "runtime.thread",
            RuntimeError::Scores { .. } => "runtime.scores",
        }
    }
}
