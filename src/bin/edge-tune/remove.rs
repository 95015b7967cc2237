use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

/// Remove a task with all its deltas.
#[derive(clap::Args)]
pub struct Args {
    /// Task to remove.
    task: String,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    args.store.open()?.remove(&args.task).map_err(Error::from)?;
    out.print(&json!({ "task": args.task, "removed": true }), format!("task {} removed", args.task))
}
