use edge_tune::Error;

use crate::locate::StoreArg;
use crate::output::Output;
use crate::rollback::returned;

/// Undo a calibration: make the delta active that the active one was trained from.
#[derive(clap::Args)]
pub struct Args {
    /// Task to undo the last calibration of.
    task: String,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let entry = args.store.open()?.undo(&args.task).map_err(Error::from)?;
    let text = format!(
        "task {}: generation {} is active, from which the other was trained ({})",
        args.task, entry.generation, entry.method
    );
    returned(out, &args.task, &entry, text)
}
