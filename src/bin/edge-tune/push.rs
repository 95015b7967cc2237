use std::path::PathBuf;

use edge_tune::Error;
use serde_json::json;

use crate::network::NetworkArgs;
use crate::output::Output;

/// Upload a directory of published deltas to a registry of containers.
///
/// The directory has an index.json by `index`, its signature, and the deltas and patches that it
/// names. They become one artifact by the CNCF ModelPack specification, each file a layer under
/// its own digest. A registry that wants a login gets $EDGE_TUNE_REGISTRY_USER and
/// $EDGE_TUNE_REGISTRY_PASSWORD.
#[derive(clap::Args)]
pub struct Args {
    /// Directory to upload.
    dir: PathBuf,
    /// Where to: oci://HOST[:PORT]/REPOSITORY:TAG.
    to: String,
    #[command(flatten)]
    network: NetworkArgs,
}

pub fn run(args: Args, out: &Output) -> anyhow::Result<()> {
    let digest = args.network.registry()?.push(&args.dir, &args.to).map_err(Error::from)?;
    let text = format!("{} is {digest}", args.to);
    out.print(&json!({ "artifact": args.to, "digest": digest }), text)
}
