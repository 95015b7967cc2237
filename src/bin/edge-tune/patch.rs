use std::path::PathBuf;

use edge_tune::Error;
use edge_tune::delta::{Delta, digest};
use edge_tune::fetch::{patch, publish};
use serde_json::json;

use crate::output::{Output, write};
use crate::values::size;

/// Make a patch from one version of a delta to the next.
///
/// Put it beside the new version before `edge-tune index`: devices that have the old one fetch
/// only the patch.
#[derive(clap::Args)]
pub struct Args {
    /// Delta file that devices have.
    old: PathBuf,
    /// Delta file that they shall get.
    new: PathBuf,
    /// File to write, such as site/intents-2.patch.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let read = |path: &PathBuf| -> Result<Vec<u8>, Error> {
        let bytes = publish::read(path, patch::MAX_PATCHED_BYTES)?;
        // Only deltas: anything else is never installed.
        Delta::parse(&bytes, &path.display().to_string())?;
        Ok(bytes)
    };
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let name = args.out.display().to_string();
    let patch = patch::make(&old, &new, &name).map_err(Error::from)?;
    write(&args.out, &patch)?;
    let value = json!({ "file": args.out, "bytes": patch.len(), "from": digest(&old),
        "to": digest(&new), "full_bytes": new.len() });
    let percent = 100.0 * patch.len() as f64 / new.len() as f64;
    let (patch, full) = (size(patch.len() as u64), size(new.len() as u64));
    out.print(&value, format!("{name}: {patch}, {percent:.1} % of {full}"))
}
