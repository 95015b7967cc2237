use std::path::Path;

use edge_tune::Error;
use edge_tune::delta::Delta;
use edge_tune::store::{Store, StoreError};

use crate::locate::StoreArg;
use crate::output::{Output, usage};

/// Show what changed between two deltas: labels, and the norm of every tensor.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  edge-tune diff old.safetensors new.safetensors
  edge-tune diff intents@1 intents")]
pub struct Args {
    /// The first delta: a file, a task for its active delta, or TASK@GENERATION.
    from: String,
    /// The second delta.
    to: String,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let diff = args.delta(&args.from)?.diff(&args.delta(&args.to)?);
    out.print(&diff, &diff)
}

impl Args {
    fn delta(&self, name: &str) -> anyhow::Result<Delta> {
        let path = Path::new(name);
        if path.extension().is_some() || path.components().count() > 1 || path.is_file() {
            return Ok(Delta::read(path).map_err(Error::from)?);
        }
        let (task, generation) = match name.split_once('@') {
            None => (name, None),
            Some((task, number)) => match number.parse() {
                Ok(n) => (task, Some(n)),
                Err(_) => {
                    return Err(usage(format!(
                        "{name}: expected TASK@GENERATION, such as intents@2"
                    )));
                }
            },
        };
        Ok(installed(&self.store.open()?, task, generation).map_err(Error::from)?)
    }
}

fn installed(store: &Store, task: &str, generation: Option<u64>) -> Result<Delta, StoreError> {
    let record = store.known(task)?;
    let generation = generation.unwrap_or(record.active);
    let missing = || StoreError::UnknownGeneration { task: task.into(), generation };
    store.load(record.entry(generation).ok_or_else(missing)?)
}
