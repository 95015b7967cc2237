use edge_tune::Error;
use serde_json::json;

use crate::locate::StoreArg;
use crate::output::Output;

/// Remove what interrupted changes left behind and deltas that no task has.
///
/// Every change of the store and its next opening do this too.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArg,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let dir = args.store.dir()?;
    args.store.open()?.collect().map_err(Error::from)?;
    out.print(&json!({ "store": dir }), format!("{}: clean", dir.display()))
}
