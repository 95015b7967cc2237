use std::fmt::Write;

use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;
use crate::values::size;

/// Show from which deltas the active one was trained, newest first.
#[derive(clap::Args)]
pub struct Args {
    /// Task to show.
    task: String,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let line = args.store.open()?.lineage(&args.task).map_err(Error::from)?;
    let mut text = String::new();
    for ancestor in &line {
        let short = ancestor.digest.get(..12).unwrap_or(&ancestor.digest);
        let _ = match &ancestor.entry {
            Some(e) => {
                let installed = if e.installed.is_empty() { "-" } else { &e.installed };
                let (generation, bytes) = (e.generation, size(e.bytes));
                writeln!(text, "{generation:>6}  {:<14} {bytes:>9}  {installed}  {short}", e.method)
            }
            None => writeln!(text, "     -  {:<14} {:>9}  {:20}  {short}", "not stored", "", ""),
        };
    }
    out.print(&json!({ "task": args.task, "lineage": line }), text)
}
