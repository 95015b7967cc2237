use edge_tune::Error;
use serde_json::json;

use crate::apply::{TrialArg, standing};
use crate::locate::{BackboneArg, StoreArg};
use crate::output::Output;

/// Make the staged delta of a task the active one.
///
/// It must pass its self-test again. If anything is wrong, the delta that was active stays so.
#[derive(clap::Args)]
pub struct Args {
    /// Task whose staged delta becomes active.
    task: String,
    #[command(flatten)]
    backbone: BackboneArg,
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    trial: TrialArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let model = args.backbone.open(out)?;
    let check = |delta: &edge_tune::delta::Delta| -> Result<(), Error> {
        model.self_test(&*model.load(delta)?)
    };
    let store = args.store.open()?;
    let entry = store.activate(&args.task, args.trial.admission(), check).map_err(Error::from)?;
    let value = json!({
        "task": args.task,
        "generation": entry.generation,
        "digest": entry.digest,
        "state": entry.state,
    });
    let standing = standing(&entry);
    out.print(&value, format!("task {}: generation {} is {standing}", args.task, entry.generation))
}
