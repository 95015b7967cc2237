use edge_tune::Error;
use edge_tune::store::Entry;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

/// Make the delta active again that was so before the active one.
#[derive(clap::Args)]
pub struct Args {
    /// Task to roll back.
    task: String,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let entry = args.store.open()?.rollback(&args.task).map_err(Error::from)?;
    let text = format!(
        "task {}: generation {} is active again ({})",
        args.task, entry.generation, entry.method
    );
    returned(out, &args.task, &entry, text)
}

/// Reports the entry that is active again.
pub fn returned(out: &Output, task: &str, entry: &Entry, text: String) -> anyhow::Result<()> {
    let value = json!({
        "task": task,
        "generation": entry.generation,
        "digest": entry.digest,
        "method": entry.method,
    });
    out.print(&value, text)
}
