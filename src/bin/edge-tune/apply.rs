use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::delta::Delta;
use edge_tune::store::Budget;
use serde_json::json;

use crate::limits::LimitArgs;
use crate::locate::{BackboneArg, StoreArg};
use crate::output::Output;
use crate::values::{bytes, size};

/// Install a delta and make it the active one of its task.
///
/// The file is copied into the store, checked against the backbone, and must pass the self-test it
/// carries on this device. If anything is wrong, the delta that was active stays so.
#[derive(clap::Args)]
pub struct Args {
    /// Delta file.
    delta: PathBuf,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    store: StoreArg,
    /// Task to install it for; the name in the delta by default.
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Refuse to keep more bytes of deltas, those for a rollback included.
    #[arg(long, value_parser = bytes, value_name = "SIZE", help_heading = "Limits")]
    max_store: Option<usize>,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let limits = args.limits.budget();
    // What is over a limit is not even read.
    let (metadata, bytes) = Delta::read_header(&args.delta).map_err(Error::from)?;
    let name = args.delta.display().to_string();
    limits.check(&metadata, bytes, &name).map_err(Error::from)?;
    let model = args.backbone.open(out)?.with_budget(limits);
    let store = args.store.open()?.with_budget(Budget {
        max_tasks: args.limits.max_tasks,
        max_bytes: args.max_store.map(|n| n as u64),
    });
    let mut task = String::new();
    let mut tests = 0;
    let check = |delta: &Delta| -> Result<(), Error> {
        let loaded = model.load(delta)?;
        model.self_test(&loaded)?;
        task = args.task.clone().unwrap_or_else(|| delta.metadata().task.clone());
        tests = delta.metadata().self_test.len();
        Ok(())
    };
    let entry = store.install(&args.delta, args.task.as_deref(), check).map_err(Error::from)?;
    let value = json!({
        "task": task,
        "generation": entry.generation,
        "digest": entry.digest,
        "method": entry.method,
        "bytes": entry.bytes,
        "self_tests": tests,
        "store": args.store.dir()?,
    });
    let text = format!(
        "task {task}: generation {} is active ({}, {}, {tests} self-tests passed)",
        entry.generation,
        entry.method,
        size(entry.bytes)
    );
    out.print(&value, text)
}
