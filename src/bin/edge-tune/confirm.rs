use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

/// End the trial of the active delta well: it stays.
#[derive(clap::Args)]
pub struct Args {
    /// Task whose active delta is confirmed.
    task: String,
    /// Confirm only if this generation is the active one.
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let entry = store.confirm(&args.task, args.generation).map_err(Error::from)?;
    let value = json!({
        "task": args.task,
        "generation": entry.generation,
        "digest": entry.digest,
        "state": entry.state,
    });
    out.print(&value, format!("task {}: generation {} is confirmed", args.task, entry.generation))
}
