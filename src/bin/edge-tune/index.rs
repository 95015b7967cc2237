use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use edge_tune::Error;
use edge_tune::fetch::{INDEX_FILE, publish};
use serde_json::json;

use crate::output::{Output, write};

/// Write the index of a directory of deltas, to publish it.
///
/// Lists the .safetensors and .patch files below the directory in its index.json, one version above
/// the one that is there. Sign it with `minisign -Sm DIR/index.json` and serve the directory with
/// any web server.
#[derive(clap::Args)]
pub struct Args {
    /// Directory to publish.
    dir: PathBuf,
    /// Days after which devices no longer accept this index.
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..36500))]
    expires: u64,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let valid = Duration::from_secs(args.expires * 86_400);
    let published = publish::index(&args.dir, SystemTime::now(), valid).map_err(Error::from)?;
    let path = args.dir.join(INDEX_FILE);
    let index = &published.index;
    write(&path, &index.to_bytes(&path.display().to_string()).map_err(Error::from)?)?;
    for file in &published.unused {
        out.note(format!("{}: for no delta here, or longer than it; left out", file.display()));
    }
    let patches: usize = index.deltas.iter().map(|d| d.patches.len()).sum();
    let value = json!({ "file": path, "version": index.version, "expires": index.expires,
        "deltas": index.deltas.len(), "patches": patches });
    let text = format!(
        "{}: version {}, {} deltas, {patches} patches, expires {}\nsign it: minisign -Sm {}",
        path.display(),
        index.version,
        index.deltas.len(),
        index.expires,
        path.display()
    );
    out.print(&value, text)
}
