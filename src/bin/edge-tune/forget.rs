use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

/// Forget a calibration: remove its delta, and those trained from it.
///
/// What a delta learned lives on in those that were trained from it, so they must go too. If the
/// active one goes, its nearest ancestor that stays becomes active, else the newest older one.
#[derive(clap::Args)]
pub struct Args {
    /// Task to forget something of.
    task: String,
    /// Generation to forget; `list` shows them.
    generation: u64,
    /// Forget what was trained from it too.
    #[arg(long)]
    descendants: bool,
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let gone = store.forget(&args.task, args.generation, args.descendants).map_err(Error::from)?;
    let active = store.active(&args.task).map_err(Error::from)?.map(|e| e.generation);
    let gone: Vec<u64> = gone.iter().map(|e| e.generation).collect();
    let names: Vec<String> = gone.iter().map(u64::to_string).collect();
    let now = match active {
        Some(g) => format!("generation {g} is active"),
        None => "none is active".into(),
    };
    out.print(
        &json!({ "task": args.task, "forgotten": gone, "active": active }),
        format!("task {}: forgot generation {}; {now}", args.task, names.join(", ")),
    )
}
