use std::fmt::Write;

use edge_tune::Error;
use edge_tune::store::State;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;
use crate::values::size;

/// List installed tasks and their deltas.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let dir = args.store.dir()?;
    let tasks = args.store.open()?.list().map_err(Error::from)?;
    let mut text = String::new();
    if tasks.is_empty() {
        let _ = writeln!(text, "{}: nothing is installed", dir.display());
    }
    for task in &tasks {
        let _ = writeln!(text, "{}", task.task);
        for e in task.entries.iter().rev() {
            let _ = writeln!(
                text,
                "  {} {:>4}  {:<14} {:>9}  {}  {}{}",
                if e.generation == task.active { "*" } else { " " },
                e.generation,
                e.method,
                size(e.bytes),
                if e.installed.is_empty() { "-" } else { &e.installed },
                e.digest.get(..12).unwrap_or(&e.digest),
                match e.state {
                    State::Confirmed => String::new(),
                    state => format!("  {state}"),
                },
            );
        }
    }
    out.print(&json!({ "store": dir, "tasks": tasks }), text)
}
