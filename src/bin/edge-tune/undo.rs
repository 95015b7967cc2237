use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

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
    let value = json!({
        "task": args.task,
        "generation": entry.generation,
        "digest": entry.digest,
        "method": entry.method,
    });
    let text = format!(
        "task {}: generation {} is active, from which the other was trained ({})",
        args.task, entry.generation, entry.method
    );
    out.print(&value, text)
}
